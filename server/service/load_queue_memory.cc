// The part of the load queue that gives devices' memory to loads in their turn.

#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/service/load_queue.h"

namespace keyload {
namespace {

using DeviceNames = absl::flat_hash_set<std::string>;

bool Shares(const LoadPlan& plan, const DeviceNames& devices) {
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.reserve_bytes[i] > 0 && devices.contains(plan.devices[i])) return true;
  }
  return false;
}

void AddDeviceNames(const LoadPlan& plan, DeviceNames& devices) {
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.reserve_bytes[i] > 0) devices.insert(plan.devices[i]);
  }
}

}  // namespace

absl::StatusOr<std::vector<MemoryReservation>> LoadQueue::Reserve(const LoadPlan& plan, uint64_t number,
                                                                  const SharedLoad& load) {
  MutexLock lock(mutex_);
  for (const std::unique_ptr<Entry>& entry : for_memory_) {
    const int32_t priority = load.priority();
    if (entry->priority < priority || (entry->priority == priority && entry->number > number)) continue;
    DeviceNames devices;
    AddDeviceNames(*entry->plan, devices);
    for (size_t i = 0; i < plan.devices.size(); ++i) {
      if (plan.reserve_bytes[i] == 0 || !devices.contains(plan.devices[i])) continue;
      const MemoryState state = devices_->Find(plan.devices[i])->account().state();
      return MakeError(Reason::kDeviceOutOfMemory,
                       StrCat(plan.devices[i], ": another load that goes first waits for its memory"),
                       {{"device", plan.devices[i]},
                        {"requested_bytes", StrCat(plan.reserve_bytes[i])},
                        {"free_bytes", StrCat(state.free())},
                        {"capacity_bytes", StrCat(state.capacity)}});
    }
  }
  return ReserveForPlan(plan, *devices_);
}

// Looks before it reserves: what is reserved on one device and given back for want of another is memory given back,
// after which this queue would look again.
absl::Status LoadQueue::ReserveFor(Entry& entry) const {
  const LoadPlan& plan = *entry.plan;
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    Device* const device = devices_->Find(plan.devices[i]);
    if (device == nullptr || plan.reserve_bytes[i] <= device->account().state().free()) continue;
    KEYLOAD_RETURN_IF_ERROR(device->account().Reserve(plan.reserve_bytes[i]).status());
  }
  KEYLOAD_ASSIGN_OR_RETURN(entry.memory, ReserveForPlan(plan, *devices_));
  return absl::OkStatus();
}

void LoadQueue::GiveMemory() {
  for_memory_.sort([](const auto& a, const auto& b) { return GoesFirst(*a, *b); });
  DeviceNames awaited;  // by those that go first: nobody behind them takes some of it
  for (auto it = for_memory_.begin(); it != for_memory_.end();) {
    Entry& entry = **it;
    if (!Shares(*entry.plan, awaited)) {
      entry.refused = ReserveFor(entry);
      if (entry.refused.ok()) {
        entry.plan = nullptr;
        entry.told = 0;
        ready_.splice(ready_.end(), for_memory_, it++);
        moved_ = true;
        continue;
      }
    }
    AddDeviceNames(*entry.plan, awaited);
    ++it;
  }
}

}  // namespace keyload
