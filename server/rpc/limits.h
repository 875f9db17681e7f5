#pragma once

#include <cstddef>

namespace keyload {

// What one client may ask of gRPC at a time; GetServerInfo tells them.
inline constexpr int kMaxMessageBytes = 4 << 20;       // of a message that the server takes
inline constexpr int kMaxStreamsPerConnection = 1024;  // calls of one connection; its further ones wait in the client
inline constexpr size_t kMaxLoadsPerStream = 64;       // unfinished ones

}  // namespace keyload
