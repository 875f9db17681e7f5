#pragma once

#include <memory>

namespace keyload {

// A request, with the charge for the memory that it takes (strict_request.h) as long as anybody uses it.
template <typename Message>
using RequestPtr = std::shared_ptr<const Message>;

}  // namespace keyload
