#pragma once

namespace keyload {

// What gRPC writes about itself goes to this program's log from then on: errors as warnings, the rest as debug lines,
// of each as many as a LogLimiter admits. What protobuf writes about messages that it cannot parse become debug lines
// too. To be called before gRPC is used; again does no harm. Thread-safe.
void TakeGrpcLog();

}  // namespace keyload
