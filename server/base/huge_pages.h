#pragma once

namespace keyload {

// Whether host memory of models may be made of the huge pages (2 MiB) that an operator has set aside for programs that
// ask for them: not at all, as far as there are any, or of nothing else.
enum class HugePages { kNever, kTry, kRequire };

}  // namespace keyload
