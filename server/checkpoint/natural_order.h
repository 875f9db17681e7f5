#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace keyload {

// Whether a component of a dotted name is a number, of any length: digits and nothing else.
bool IsNumberComponent(std::string_view component);

// "layers.12.norm1" becomes "layers.#.norm#", so that what differs in its numbers only is one.
std::string WithoutNumbers(std::string_view name);

// Orders keys by their dotted components; components of digits compare as numbers and before text: "layers.2" <
// "layers.10".
bool NaturalLess(std::string_view a, std::string_view b);

// The positions of `names` in natural order; equal names stay as they come. For the names of a model this is linear:
// few different components, and neighbours that begin alike.
std::vector<uint32_t> NaturalOrder(std::span<const std::string_view> names);

}  // namespace keyload
