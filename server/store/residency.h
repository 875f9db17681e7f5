#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/plan/load_plan.h"
#include "server/store/segment.h"

namespace keyload {

// Which of a model's planned tensors are in memory, and that memory. All generations of one model share it: a tensor
// and a segment keep their numbers. Thread-safe; no lock is held across I/O.
//
//   LAZY ─▶ LOADING ─▶ RESIDENT ─▶ LAZY      a claim takes LAZY tensors; what it does not commit is LAZY again
//
// A segment has memory from the first tensor that is loaded into it until no tensor of it is LOADING or RESIDENT. A
// tensor that is evicted before that has its bytes there still, and is RESIDENT again without being read: bytes that
// somebody may have pinned are never written again.
// What was reserved for a segment is reserved again when a claim gives it up, and not when it is evicted.
class Residency {
 public:
  enum class State : uint8_t {
    kLazy,
    kLoading,  // one caller is loading it
    kResident,
    kDropped,  // an equal second copy of a tied tensor: its key shares the provider's
  };

  struct Content {
    std::shared_ptr<const LoadPlan> plan;
    std::vector<Segment> segments;            // as plan->segments; of lazy ones only the memory is absent
    State state = State::kResident;           // of every tensor: kLazy or kResident
    std::vector<TiedDuplicate> dropped;       // second copies that are kDropped
    std::vector<MemoryReservation> reserved;  // per plan->devices: kept for what is lazy, until it is evicted
  };
  explicit Residency(Content content);

  // Makes the model wider. `plan` has the devices, segments and tensors of plan() first and those of `added.plan`
  // behind them; `added` numbers its own from 0.
  void Append(std::shared_ptr<const LoadPlan> plan, Content added);
  // Undoes the Appends behind `plan`, whose generation was never published: nobody has a claim on what they added. The
  // memory of that is freed.
  void CutBack(std::shared_ptr<const LoadPlan> plan) noexcept;

  // Tensors that one caller loads, so that each is read once however many want it. Movable; confine to one caller; must
  // not outlive the Residency.
  class Claim {
   public:
    Claim(Claim&& other) noexcept;
    Claim& operator=(Claim&&) = delete;
    ~Claim();  // what was not committed is lazy again

    const std::vector<uint32_t>& tensors() const { return tensors_; }  // taken, by engine, shard and file offset
    bool awaits_others() const { return awaits_others_; }  // somebody else is loading some of what was asked for
    // What Allocate took, per device of the plan.
    uint64_t allocated_bytes(size_t device) const {
      return device < allocated_bytes_.size() ? allocated_bytes_[device] : 0;
    }
    // Gives every segment that the tensors lie in its memory, unless it has some already; where the model has reserved
    // it, that is taken. It is 0 where `part`, which is the SubPlan of the tensors, puts none; what the part fills
    // entirely may hold anything there until it is read. The table is as long as the plan's, with memory where the
    // tensors lie only. DEVICE_OUT_OF_MEMORY, LOAD_CANCELLED and DEADLINE_EXCEEDED leave everything as it was.
    absl::StatusOr<std::vector<Segment>> Allocate(const LoadPlan& part, const RequestContext& context);
    // The tensors are resident from now on.
    void Commit();

   private:
    friend class Residency;
    explicit Claim(Residency* residency) : residency_(residency) {}
    Residency* residency_;
    std::vector<uint32_t> tensors_;
    bool awaits_others_ = false;
    std::vector<uint64_t> allocated_bytes_;
    // Room for what the claim's end needs, which must not fail.
    std::vector<std::pair<uint32_t, std::shared_ptr<DeviceMemory>>> freed_;
    std::vector<uint32_t> kept_;
  };
  // Takes those of `tensors` that are lazy, but for those whose bytes are in memory still: they are resident again.
  // Never blocks.
  Claim Begin(std::span<const uint32_t> tensors);
  // Blocks until nobody is loading any of `tensors`; they may be resident then, or lazy again. LOAD_CANCELLED,
  // DEADLINE_EXCEEDED.
  absl::Status WaitForOthers(std::span<const uint32_t> tensors, const RequestContext& context);

  struct Evicted {
    uint64_t tensors = 0;
    uint64_t bytes = 0;  // of the segments that were given up; freed when the last reader of them is done
  };
  // Makes those of `tensors` that are resident lazy. What somebody is loading stays.
  Evicted Evict(std::span<const uint32_t> tensors);

  // The segment of a resident tensor, whose memory lives as long as the copy; nullopt when the tensor is not resident.
  // The tensor's bytes in it never change, also when the tensor is evicted and comes again meanwhile.
  std::optional<Segment> Pin(uint32_t tensor) const;
  // Every tensor's state at one moment.
  std::vector<State> states() const;
  std::shared_ptr<const LoadPlan> plan() const;

  struct DeviceTotals {
    uint64_t tensors = 0;       // resident, without dropped ones
    uint64_t tensor_bytes = 0;  // of those
    uint64_t memory_bytes = 0;  // allocated and reserved
  };
  struct Totals {
    uint64_t resident_keys = 0;  // a dropped copy's key counts with its provider
    uint64_t lazy_keys = 0;
    uint64_t allocated_bytes = 0;
    std::vector<DeviceTotals> devices;  // per plan()->devices
  };
  Totals totals() const;
  // The same without the devices, and without taking memory.
  struct KeyTotals {
    uint64_t resident = 0;
    uint64_t lazy = 0;
  };
  KeyTotals key_totals() const;

 private:
  using Freed = std::vector<std::pair<uint32_t, std::shared_ptr<DeviceMemory>>>;  // segments, and their memory

  // Claim::Allocate, but for the padding of segments that are `filled`. Adds what it took to `allocated_bytes`.
  absl::StatusOr<std::vector<Segment>> AllocateSegments(const LoadPlan& part, const std::vector<bool>& filled,
                                                        const RequestContext& context,
                                                        std::vector<uint64_t>& allocated_bytes);
  // Memory for the segments `lacking`, each out of what is kept for it, else out of new reservations.
  absl::StatusOr<std::vector<std::unique_ptr<DeviceMemory>>> AllocateMemory(
      const LoadPlan& part, const std::vector<Segment>& segments, std::span<const uint32_t> lacking,
      const std::vector<bool>& filled, const RequestContext& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(allocation_mutex_);
  // Reserves again what is kept for `segments`, whose memory was freed: those for which there is room still.
  void KeepAgain(std::span<const uint32_t> segments) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(allocation_mutex_);
  // The model has the segment's bytes no more, neither as memory nor reserved.
  void GiveUp(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetLoading(uint32_t tensor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetResident(uint32_t tensor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the use of the segment by one tensor. After the last the memory goes into `freed`, to be freed outside the
  // lock.
  void Leave(uint32_t tensor, Freed& freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t KeysOf(uint32_t tensor) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Abandon(Claim& claim);

  mutable Mutex allocation_mutex_;  // before mutex_; held while memory is allocated, so that a segment gets it once
  // Per segment: reserved for it while it has no memory.
  std::vector<MemoryReservation> kept_ ABSL_GUARDED_BY(allocation_mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<const LoadPlan> plan_ ABSL_GUARDED_BY(mutex_);
  std::vector<Segment> segments_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> users_ ABSL_GUARDED_BY(mutex_);     // per segment: tensors that are loading or resident
  std::vector<uint32_t> memories_ ABSL_GUARDED_BY(mutex_);  // per segment: the number of its present or next one
  std::vector<bool> is_kept_ ABSL_GUARDED_BY(mutex_);       // per segment: its bytes are in kept_ or came from there
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> filled_ ABSL_GUARDED_BY(mutex_);  // per tensor: the memory that has its bytes; 0: none
  absl::flat_hash_map<uint32_t, uint32_t> dropped_copies_ ABSL_GUARDED_BY(mutex_);  // per provider
  Totals totals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
