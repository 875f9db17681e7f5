#pragma once

namespace keyload {

// The turn of a pool's thread: a pool runs as many tasks at a time as it has turns. A thread that waits for something
// that may never come, such as a mount that does not answer, gives its turn up meanwhile, and the pool runs another
// task on another thread. So what hangs holds up nobody who does not need it.
class PoolTurn {
 public:
  virtual ~PoolTurn() = default;
  virtual void GiveUp() = 0;
  // Never waits: for a while more tasks may run than the pool has turns. REQUIRES: GiveUp.
  virtual void TakeBack() = 0;

  // Of the thread that asks; null: it runs no task of a pool.
  static PoolTurn* current();
  // Makes `turn` the thread's one until this is destroyed; then it is the one before again.
  class Scope {
   public:
    explicit Scope(PoolTurn& turn);
    ~Scope();
    Scope(const Scope&) = delete;
    PoolTurn* before() const { return before_; }

   private:
    PoolTurn* const before_;
  };
};

}  // namespace keyload
