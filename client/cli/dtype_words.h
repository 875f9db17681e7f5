#pragma once

#include <string>
#include <string_view>

namespace keyload::cli {

// The safetensors name of a dtype as people type it: "bfloat16", "torch.float16", "half" and "fp32" are what PyTorch
// and the programs around it call BF16, F16 and F32, in any case. A word that is none of these is returned as it is,
// for the server to judge.
std::string DTypeFromWord(std::string_view word);

}  // namespace keyload::cli
