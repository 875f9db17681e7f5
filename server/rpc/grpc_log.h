#pragma once

namespace keyload {

// What gRPC writes about itself goes to this program's log from then on: errors as warnings, the rest as debug lines.
// To be called before gRPC is used. Thread-safe.
void TakeGrpcLog();

}  // namespace keyload
