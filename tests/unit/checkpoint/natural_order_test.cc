#include "server/checkpoint/natural_order.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keyload {
namespace {

TEST(NaturalOrder, ComparesDigitComponentsAsNumbers) {
  EXPECT_TRUE(NaturalLess("layers.2.w", "layers.10.w"));
  EXPECT_FALSE(NaturalLess("layers.10.w", "layers.2.w"));
}

TEST(NaturalOrder, PutsNumbersBeforeText) {
  EXPECT_TRUE(NaturalLess("m.10", "m.a"));
  EXPECT_FALSE(NaturalLess("m.a", "m.10"));
  EXPECT_TRUE(NaturalLess("m.9", "m.1a")) << "1a is text";
}

TEST(NaturalOrder, FindsTheComponentThatADifferenceIsIn) {
  EXPECT_TRUE(NaturalLess("l.12.w", "l.123.w"));
  EXPECT_TRUE(NaturalLess("l.13.w", "l.123.w"));
  EXPECT_FALSE(NaturalLess("l.123.w", "l.13.w"));
  EXPECT_TRUE(NaturalLess("ab.c", "abc"));
  EXPECT_TRUE(NaturalLess("a.b", "a-b")) << "component a before component a-b";
}

TEST(NaturalOrder, PutsAParentBeforeItsChildren) {
  EXPECT_TRUE(NaturalLess("a", "a.b"));
  EXPECT_FALSE(NaturalLess("a.b", "a"));
  EXPECT_TRUE(NaturalLess("", "a"));
  EXPECT_TRUE(NaturalLess("a", "a."));
}

TEST(NaturalOrder, ComparesNumbersBeyond64BitsWithoutOverflow) {
  EXPECT_TRUE(NaturalLess("l.99999999999999999999", "l.100000000000000000000"));
  EXPECT_TRUE(NaturalLess("l.18446744073709551615", "l.18446744073709551616"));
  EXPECT_TRUE(NaturalLess("l.00000000000000000000000002", "l.3"));
}

TEST(NaturalOrder, OrdersEqualNumbersByTheirTextLast) {
  EXPECT_TRUE(NaturalLess("l.01.a", "l.1.b")) << "the next component decides first";
  EXPECT_TRUE(NaturalLess("l.01", "l.1"));
  EXPECT_FALSE(NaturalLess("l.1", "l.01"));
  EXPECT_TRUE(NaturalLess("l.0", "l.00"));
}

TEST(NaturalOrder, IsAStrictTotalOrder) {
  const std::vector<std::string> parts = {"", "0", "00", "1", "01", "10", "a", "1a"};
  std::vector<std::string> names = parts;
  for (const std::string& a : parts) {
    for (const std::string& b : parts) names.push_back(a + "." + b);
  }
  for (const std::string& a : names) {
    EXPECT_FALSE(NaturalLess(a, a)) << a;
    for (const std::string& b : names) {
      EXPECT_EQ(NaturalLess(a, b) + NaturalLess(b, a), a != b) << a << " " << b;
      for (const std::string& c : names) {
        ASSERT_TRUE(!NaturalLess(a, b) || !NaturalLess(b, c) || NaturalLess(a, c)) << a << " " << b << " " << c;
      }
    }
  }
}

std::vector<std::string> InNaturalOrder(const std::vector<std::string>& names) {
  std::vector<std::string> ordered;
  for (const uint32_t i : NaturalOrder(std::vector<std::string_view>(names.begin(), names.end()))) {
    ordered.push_back(names[i]);
  }
  return ordered;
}

std::vector<std::string> Sorted(std::vector<std::string> names) {
  std::stable_sort(names.begin(), names.end(), NaturalLess);
  return names;
}

TEST(NaturalOrder, OfAListIsWhatComparingGives) {
  std::mt19937 random(7);
  const std::vector<std::string> parts = {"", "0", "00", "1", "01", "10", "2", "a", "1a", "layers", "z"};
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> names;
    for (int i = 0; i < 200; ++i) {
      std::string name = parts[random() % parts.size()];
      for (uint32_t more = random() % 5; more > 0; --more) name += "." + parts[random() % parts.size()];
      names.push_back(name);
    }
    ASSERT_EQ(InNaturalOrder(names), Sorted(names)) << "round " << round;
  }
}

TEST(NaturalOrder, OfAListKeepsEqualNamesAsTheyCome) {
  const std::vector<std::string_view> names = {"b", "a", "b", "a"};
  EXPECT_EQ(NaturalOrder(names), (std::vector<uint32_t>{1, 3, 0, 2}));
  EXPECT_TRUE(NaturalOrder({}).empty());
}

TEST(NaturalOrder, OfAListTakesNamesWithMoreComponentsThanAKeyHasRoomFor) {
  std::mt19937 random(11);
  std::vector<std::string> names;
  for (int i = 0; i < 3000; ++i) {
    std::string name = "m";
    for (int level = 0; level < 40; ++level) name += "." + std::to_string(random() % (level < 10 ? 3 : 2000));
    names.push_back(name);
  }
  names.push_back(names[0] + ".x");
  names.push_back(names[0].substr(0, names[0].rfind('.')));
  EXPECT_EQ(InNaturalOrder(names), Sorted(names));
}

}  // namespace
}  // namespace keyload
