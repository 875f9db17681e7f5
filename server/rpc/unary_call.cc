#include "server/rpc/unary_call.h"

namespace keyload {

absl::Status TakeRoomForAnswer(SendBudget::Hold& hold, google::protobuf::Message& response) {
  const size_t bytes = response.ByteSizeLong();
  if (hold.TryTake(bytes)) return absl::OkStatus();
  response.Clear();
  return MakeError(Reason::kMemoryExhausted,
                   StrCat("the answer has ", bytes,
                          " bytes, and too many of others are on their way to clients that "
                          "have not taken them; take those, or ask again later (--send-memory)"),
                   {{"requested_bytes", StrCat(bytes)}});
}

}  // namespace keyload
