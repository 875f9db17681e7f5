#include "server/base/byte_size.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(ParseByteSize, KnowsBinaryAndDecimalSuffixesInAnyCase) {
  EXPECT_EQ(ParseByteSize("4096").value(), 4096);
  EXPECT_EQ(ParseByteSize("2GiB").value(), 2147483648);
  EXPECT_EQ(ParseByteSize("512KiB").value(), 524288);
  EXPECT_EQ(ParseByteSize("1gib").value(), 1073741824);
  EXPECT_EQ(ParseByteSize("100MB").value(), 100'000'000);
  EXPECT_EQ(ParseByteSize("1TB").value(), 1'000'000'000'000);
  EXPECT_EQ(ParseByteSize("1.5GB").value(), 1'500'000'000);
  EXPECT_EQ(ParseByteSize(" 1 GB ").value(), 1'000'000'000);
  EXPECT_EQ(ParseByteSize("0MB").value(), 0);
}

TEST(ParseByteSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "-1GB", "5MBB", "5k0MB", "nanGB", "infGB", "1e3KB", "1.5", "0x10", "20 Gi B"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
}

TEST(ParseByteSize, RefusesWhatDoesNotFit64Bits) {
  EXPECT_EQ(ParseByteSize("18446744073709551615").value(), 18446744073709551615ull);
  EXPECT_FALSE(ParseByteSize("18446744073709551616").ok());
  EXPECT_FALSE(ParseByteSize("17179869184GiB").ok());
  EXPECT_FALSE(ParseByteSize("99999999999.5TiB").ok());
}

TEST(FormatByteSize, RoundsToOneDecimalInBinaryUnits) {
  EXPECT_EQ(FormatByteSize(0), "0 B");
  EXPECT_EQ(FormatByteSize(1023), "1023 B");
  EXPECT_EQ(FormatByteSize(1024), "1.0 KiB");
  EXPECT_EQ(FormatByteSize(90'866'120), "86.7 MiB");
  EXPECT_EQ(FormatByteSize((1ull << 30) - 1), "1.0 GiB");
}

}  // namespace
}  // namespace keyload
