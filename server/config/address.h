#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace keyload {

// OK for "unix:PATH" (absolute, at most 107 bytes) and "HOST:PORT" where HOST is localhost, 127.x.y.z or [::1]; port 0
// asks for a free one. BAD_REQUEST otherwise.
absl::Status CheckListenAddress(std::string_view address);

}  // namespace keyload
