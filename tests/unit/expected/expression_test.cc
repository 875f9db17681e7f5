#include "server/expected/expression.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using testing::HasSubstr;

// Over a = 7, b = 2, half = 0.5, name = "x", nothing = null, list = [1, "x"], object = {"k": 1}.
class Expressions : public testing::Test {
 protected:
  Expressions() {
    list_.data = ConfigValue::List{ConfigValue{int64_t{1}}, ConfigValue{std::string("x")}};
    object_.data = ConfigValue::Object{{"k", ConfigValue{int64_t{1}}}};
    Add("a", int64_t{7});
    Add("b", int64_t{2});
    Add("half", 0.5);
    Add("name", std::string_view("x"));
    Add("nothing", Value());
    Add("list", &list_);
    Add("object", &object_);
  }
  void Add(std::string_view name, Value value) {
    symbols_.Define(name);
    values_.push_back(value);
  }

  int64_t Of(std::string_view text) {
    const absl::StatusOr<Expression> expression = Expression::Parse(text, symbols_);
    if (!expression.ok()) return ADD_FAILURE() << expression.status(), 0;
    const absl::StatusOr<int64_t> value = expression->Integer(values_);
    if (!value.ok()) return ADD_FAILURE() << text << ": " << value.status(), 0;
    return *value;
  }
  // What is wrong with `text`, when it is parsed or evaluated.
  std::string Problem(std::string_view text) {
    const absl::StatusOr<Expression> expression = Expression::Parse(text, symbols_);
    const absl::Status status = expression.ok() ? expression->Integer(values_).status() : expression.status();
    return std::string(status.message());
  }

  Symbols symbols_;
  std::vector<Value> values_;
  ConfigValue list_, object_;
};

TEST_F(Expressions, Calculate) {
  EXPECT_EQ(Of("a + b * 3 - 1"), 12);
  EXPECT_EQ(Of("(a + b) * 3"), 27);
  EXPECT_EQ(Of("a - b - 1"), 4);
  EXPECT_EQ(Of("-a + 1"), -6);
  EXPECT_EQ(Of("ceil_div(a, b) + min(a, b) * max(a, b)"), 18);
  EXPECT_EQ(Of("floor(a * half)"), 3);
}
TEST_F(Expressions, DivideTowardsMinusInfinity) {
  EXPECT_EQ(Of("a // b"), 3);
  EXPECT_EQ(Of("-a // b"), -4);
  EXPECT_EQ(Of("-a % b"), 1);
  EXPECT_EQ(Of("a % -b"), -1);
  EXPECT_EQ(Of("a // -1"), -7);
  EXPECT_EQ(Of("ceil_div(-a, b)"), -3);
}
TEST_F(Expressions, Compare) {
  EXPECT_EQ(Of("a > b and b >= 2 and b <= 2 and b < a and a != b and not a == b"), 1);
  EXPECT_EQ(Of("name == 'x' and name != 'y' and nothing == null and name != 1"), 1);
  EXPECT_EQ(Of("half < 1 and half == half and 1 in list and name in list and 2 not in list"), 1);
  EXPECT_EQ(Of("1 in nothing"), 0);
}
TEST_F(Expressions, LogicEvaluatesWhatItNeeds) {
  EXPECT_EQ(Of("false and a // 0"), 0);
  EXPECT_EQ(Of("true or a // 0"), 1);
  EXPECT_EQ(Of("choose(a > b, a, a // 0)"), 7);
  EXPECT_EQ(Of("not nothing and not '' and not 0"), 1);
  EXPECT_EQ(Of("not not list and not not object"), 1);
}
TEST_F(Expressions, LookIntoLists) {
  EXPECT_EQ(Of("length(list) + length(object) + length(nothing)"), 3);
  EXPECT_EQ(Of("item(list, 0)"), 1);
  EXPECT_THAT(Problem("item(list, 2)"), HasSubstr("no item 2 in a list of 2"));
  EXPECT_THAT(Problem("item(list, -1)"), HasSubstr("no item -1"));
  EXPECT_THAT(Problem("1 in name"), HasSubstr("where a list is needed"));
  EXPECT_THAT(Problem("length(a)"), HasSubstr("where a list is needed"));
}
TEST_F(Expressions, SearchNoLongLists) {
  const ConfigValue list{ConfigValue::List(1001, ConfigValue{int64_t{7}})};
  Symbols symbols;
  symbols.Define("list");
  const auto found = Expression::Parse("7 in list", symbols)->Evaluate(std::vector<Value>{ValueOf(list)});
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("a list of over 1000 values"));
}
TEST_F(Expressions, RefuseNumbersBeyond64Bits) {
  for (const char* text :
       {"9223372036854775807 + 1", "-9223372036854775807 - 2", "9223372036854775807 * 2",
        "(-9223372036854775807 - 1) // -1", "-(-9223372036854775807 - 1)", "floor(half * 9223372036854775807 * 4)"}) {
    EXPECT_THAT(Problem(text), HasSubstr("beyond 64 bits")) << text;
  }
  EXPECT_THAT(Problem("9223372036854775808"), HasSubstr("no whole number"));
}
TEST_F(Expressions, RefuseOtherKindsOfValues) {
  EXPECT_THAT(Problem("name + 1"), HasSubstr("the text \"x\" where a number is needed"));
  EXPECT_THAT(Problem("nothing * 2"), HasSubstr("null where a number is needed"));
  EXPECT_THAT(Problem("list < 2"), HasSubstr("a list where a number is needed"));
  EXPECT_THAT(Problem("half"), HasSubstr("where a whole number is needed"));
  EXPECT_THAT(Problem("half // 2"), HasSubstr("with a fraction"));
  EXPECT_THAT(Problem("a // 0"), HasSubstr("division by zero"));
  EXPECT_THAT(Problem("a % 0"), HasSubstr("division by zero"));
}
TEST_F(Expressions, NameTheColumnOfAMistake) {
  EXPECT_THAT(Problem("a + other"), HasSubstr("\"other\" is no value that is known here at column 10"));
  EXPECT_THAT(Problem("a +"), HasSubstr("a value is missing at column 4"));
  EXPECT_THAT(Problem("a b"), HasSubstr("unexpected text at column 3"));
  EXPECT_THAT(Problem("(a"), HasSubstr("\")\" is missing"));
  EXPECT_THAT(Problem("run(a)"), HasSubstr("there is no function \"run\""));
  EXPECT_THAT(Problem("min(a)"), HasSubstr("min takes 2 values"));
  EXPECT_THAT(Problem("a not b"), HasSubstr("\"in\" is missing"));
  EXPECT_THAT(Problem("name == 'x"), HasSubstr("the text has no end"));
}
TEST_F(Expressions, AreBounded) {
  EXPECT_THAT(Problem(std::string(2000, '1')), HasSubstr("over 1000 bytes"));
  EXPECT_THAT(Problem(std::string(100, '(') + "a" + std::string(100, ')')), HasSubstr("nested too deeply"));
  EXPECT_EQ(Of(std::string(900, '-') + "a"), 7);
}

TEST(Symbols, GiveANameThatIsHiddenAnotherSlot) {
  Symbols symbols;
  EXPECT_EQ(symbols.Define("layer"), 0u);
  EXPECT_EQ(symbols.Define("layer"), std::nullopt);
  symbols.Hide("layer");
  EXPECT_EQ(symbols.Find("layer"), std::nullopt);
  EXPECT_EQ(symbols.Define("layer"), 1u);
}

}  // namespace
}  // namespace keyload
