#pragma once

#include <string_view>

namespace keyload {

// Orders keys by their dotted components; components of digits compare as numbers and before text: "layers.2" <
// "layers.10".
bool NaturalLess(std::string_view a, std::string_view b);

}  // namespace keyload
