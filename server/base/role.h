#pragma once

namespace keyload {

// What a caller may do; each may do what those before it may.
//   kRead   look: models, keys, loads, devices, plans, tensors
//   kLoad   and change what is resident: load, materialize, evict, cancel, upload
//   kAdmin  and what others depend on: unload, device maps
enum class Role { kNone, kRead, kLoad, kAdmin };

}  // namespace keyload
