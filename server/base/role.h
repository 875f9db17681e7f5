#pragma once

namespace keyload {

// What a caller may do; each may do what those before it may.
//   kRead   look: models, keys, loads, devices, maps, and plan
//   kLoad   load and unload, materialize and evict, cancel, upload; and read tensors, which hands out weights
//   kAdmin  change what all share: the kept device maps
enum class Role { kNone, kRead, kLoad, kAdmin };

}  // namespace keyload
