#include "server/placement/name_trie.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace keyload {
namespace {

TEST(NameTrie, AncestorsAreInsertedInOrder) {
  NameTrie trie;
  EXPECT_EQ(trie.Insert("a.b.c"), 3u);
  EXPECT_EQ(trie.Insert("a.b"), 2u);
  EXPECT_EQ(trie.Insert(""), NameTrie::kRoot);
  EXPECT_EQ(trie.nodes()[2].name, "a.b");
  EXPECT_EQ(trie.nodes()[2].parent, 1u);
}

TEST(NameTrie, ChildIsByWholeComponent) {
  NameTrie trie;
  trie.Insert("layers.10");
  EXPECT_EQ(trie.Child(NameTrie::kRoot, "layers"), 1u);
  EXPECT_EQ(trie.Child(1, "1"), std::nullopt);
  EXPECT_EQ(trie.Child(1, "10"), 2u);
  EXPECT_EQ(trie.Child(2, ""), std::nullopt);
}

// Whatever was inserted before, a name has one node of its own; dots in odd places are components too.
TEST(NameTrie, NodesDoNotDependOnTheNameBefore) {
  const std::vector<std::string> names = {"a",   "ab", "a.b", "a.bc", "a.b.c", "a.",
                                          "a..", ".",  ".a",  "..",   "b",     "a.c.b"};
  NameTrie trie;
  std::map<std::string, uint32_t> node_of;
  for (const std::string& name : names) node_of[name] = trie.Insert(name);
  for (const std::string& before : names) {
    for (const std::string& name : names) {
      trie.Insert(before);
      EXPECT_EQ(trie.Insert(name), node_of[name]) << "\"" << name << "\" after \"" << before << "\"";
    }
  }
  for (const auto& [a, node_a] : node_of) {
    for (const auto& [b, node_b] : node_of) EXPECT_EQ(a == b, node_a == node_b) << a << " " << b;
  }
}

// With and without room made before, and with what makes the table grow many times.
TEST(NameTrie, KeepsItsNodesWhenItGrows) {
  std::vector<std::string> names;
  for (int i = 0; i < 3000; ++i) names.push_back("m." + std::to_string(i % 60) + "." + std::to_string(i));
  for (const size_t room : {0u, 10u, 10'000u}) {
    NameTrie trie;
    trie.Reserve(room);
    for (const std::string& name : names) EXPECT_EQ(trie.nodes()[trie.Insert(name)].name, name);
    EXPECT_EQ(trie.nodes().size(), 1 + 1 + 60 + names.size());
    for (const std::string& name : names) {
      const auto module = trie.Child(*trie.Child(NameTrie::kRoot, "m"), name.substr(2, name.rfind('.') - 2));
      ASSERT_TRUE(module.has_value()) << name;
      const auto node = trie.Child(*module, name.substr(name.rfind('.') + 1));
      ASSERT_TRUE(node.has_value()) << name;
      EXPECT_EQ(trie.nodes()[*node].name, name);
      EXPECT_EQ(trie.Child(*node, "m"), std::nullopt);
    }
  }
}

}  // namespace
}  // namespace keyload
