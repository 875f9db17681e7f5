#pragma once

#include <cstddef>
#include <cstdint>

namespace keyload {

// What one client may ask of gRPC at a time; GetServerInfo tells them.
inline constexpr int kMaxMessageBytes = 4 << 20;       // of a message that the server takes
inline constexpr int kMaxStreamsPerConnection = 1024;  // calls of one connection; its further ones wait in the client
inline constexpr size_t kMaxLoadsPerStream = 64;       // unfinished ones
inline constexpr size_t kDefaultConnections = 4096;    // of one listener
inline constexpr size_t kDefaultConnectionsPerPeer = 1024;
inline constexpr uint64_t kDefaultSendBytes = 256 << 20;  // on their way to all clients
// gRPC's buffers for what clients have begun to send: those of all Unix sockets together, and those of all TCP ports.
inline constexpr size_t kReceiveBytes = 128 << 20;
inline constexpr size_t kMaxWatchers = 256;       // WatchModels calls: each is written to at every change
inline constexpr int kMaxWatchedModels = 10'000;  // that one of them may name

}  // namespace keyload
