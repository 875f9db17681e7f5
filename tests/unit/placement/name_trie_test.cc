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

}  // namespace
}  // namespace keyload
