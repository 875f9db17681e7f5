#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace keyload {

// What waits for the threads of a pool, so that no caller keeps others out: each caller has a line of its own, first
// in, first out, and the lines take turns. A caller has at most so many tasks that run and so many that wait at a time.
// A task that runs may be parked, while it waits for what may never come: it does not count then, up to a bound. Not
// thread-safe.
template <typename Task>
class FairQueue {
 public:
  struct Limits {
    size_t waiting = 64;         // tasks of all callers
    size_t caller_waiting = 64;  // of one caller
    size_t caller_running = 1;   // of one caller; at least 1
    size_t caller_parked = 0;    // of one caller, beside those; more than these count as running
  };
  explicit FairQueue(const Limits& limits) : limits_(limits) {}
  FairQueue(const FairQueue&) = delete;

  // False, and `task` is as it was, when as many wait as may.
  bool Push(const std::string& caller, Task&& task) {
    if (size_ >= limits_.waiting) return false;
    const auto [it, added] = lines_.try_emplace(caller);
    Line& line = it->second;
    if (added) line.caller = &it->first;
    if (line.tasks.size() >= limits_.caller_waiting) return false;
    line.tasks.push_back(std::move(task));
    ++size_;
    TakeTurns(line);
    return true;
  }

  // The next task that may run now, which counts as running until Done(caller); false when there is none.
  bool Pop(Task& task, std::string_view& caller) {
    if (first_ == nullptr) return false;
    Line& line = *first_;
    first_ = line.next;
    if (first_ == nullptr) last_ = nullptr;
    line.takes_turns = false;
    task = std::move(line.tasks.front());
    line.tasks.pop_front();
    --size_;
    ++line.running;
    caller = *line.caller;
    TakeTurns(line);
    return true;
  }

  // A task that Pop gave makes room for another one of its caller, until Unpark(caller): then more may run for a while.
  void Park(std::string_view caller) {
    Line& line = lines_.find(caller)->second;
    ++line.parked;
    TakeTurns(line);
  }
  void Unpark(std::string_view caller) { --lines_.find(caller)->second.parked; }

  // A task that Pop gave, and that is not parked, has ended; `caller` is the view that Pop gave and ends here.
  void Done(std::string_view caller) {
    const auto it = lines_.find(caller);
    --it->second.running;
    TakeTurns(it->second);
    if (it->second.running == 0 && it->second.tasks.empty()) lines_.erase(it);
  }

  size_t size() const { return size_; }  // tasks that wait

 private:
  struct Line {
    const std::string* caller = nullptr;
    std::deque<Task> tasks;
    size_t running = 0;  // with those that are parked
    size_t parked = 0;
    bool takes_turns = false;  // is among those of first_
    Line* next = nullptr;
  };

  // Puts the line at the end of those whose tasks may run, if it has such tasks.
  void TakeTurns(Line& line) {
    const size_t counted = line.running - std::min(line.parked, limits_.caller_parked);
    if (line.takes_turns || line.tasks.empty() || counted >= limits_.caller_running) return;
    line.takes_turns = true;
    line.next = nullptr;
    (last_ == nullptr ? first_ : last_->next) = &line;
    last_ = &line;
  }

  const Limits limits_;
  std::map<std::string, Line, std::less<>> lines_;
  Line* first_ = nullptr;
  Line* last_ = nullptr;
  size_t size_ = 0;
};

}  // namespace keyload
