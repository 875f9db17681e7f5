#pragma once

#include <string>

namespace keyload {

struct TestCertificate {
  std::string certificate;  // PEM, signed by itself
  std::string key;          // PEM
};

// A new certificate that ends `days` from now.
TestCertificate MakeTestCertificate(int days);
// One with a key that OpenSSL's security level refuses.
TestCertificate MakeWeakCertificate();

}  // namespace keyload
