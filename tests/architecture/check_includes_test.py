"""check_includes.py finds each kind of violation: a check that cannot fail checks nothing."""

import pathlib
import tempfile
import unittest

import check_includes

CLEAN = {
    "server/base/error.h": "#pragma once\n",
    "server/base/error.cc": '#include "server/base/error.h"\n',
    "server/base/CMakeLists.txt": "keyload_library(base SOURCES error.cc)\n",
}


class CheckIncludesTest(unittest.TestCase):
    def find(self, changed):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**CLEAN, **changed}.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return list(check_includes.violations(root))

    def test_a_clean_tree_passes(self):
        self.assertEqual(self.find({}), [])

    def assert_found(self, header, name, text):
        found = self.find({name: ("#pragma once\n" if header else "") + text})
        self.assertEqual(len(found), 1, found)
        self.assertIn(name, found[0])

    def test_an_include_against_the_flow(self):
        self.assert_found(True, "server/base/a.h", '#include "server/keys/a.h"\n')

    def test_an_include_of_rpc(self):
        self.assert_found(True, "server/service/a.h", '#include "server/rpc/a.h"\n')

    def test_a_folder_outside_the_table(self):
        self.assert_found(True, "server/misc/a.h", '#include "server/base/error.h"\n')

    def test_a_client_that_uses_the_server(self):
        self.assert_found(True, "client/keyload/a.h", '#include "server/base/error.h"\n')
        self.assert_found(True, "client/cli/a.h", '#include "server/keys/a.h"\n')

    def test_the_command_may_use_the_base(self):
        self.assertEqual(self.find({"client/cli/a.h": '#pragma once\n#include "server/base/error.h"\n'}), [])

    def test_a_server_that_uses_the_tests(self):
        self.assert_found(True, "server/base/a.h", '#include "tests/support/fake.h"\n')

    def test_reserved_headers(self):
        for target in ("ATen/core/Tensor.h", "keyload/v1/model_loader.pb.h", "grpcpp/grpcpp.h", "cuda.h"):
            self.assert_found(True, "server/keys/a.h", f"#include <{target}>\n")

    def test_a_relative_include(self):
        self.assert_found(True, "server/base/a.h", '#include "../base/error.h"\n')

    def test_a_header_without_guard(self):
        self.assert_found(False, "server/base/a.h", "int a();\n")

    def test_a_file_that_is_too_long(self):
        self.assert_found(True, "server/base/a.h", "\n" * 400)

    def test_a_source_that_cmake_does_not_know(self):
        self.assert_found(False, "tests/unit/base/error_test.cc", "")
        self.assert_found(False, "server/base/terror.cc", "")

    def test_a_name_that_is_part_of_a_listed_one_is_not_listed(self):
        self.assert_found(False, "server/base/ror.cc", "")

    def test_a_loop_in_cmake_names_its_sources(self):
        lists = {"tests/fuzz/CMakeLists.txt": "foreach(name a b)\n  add_executable(${name} ${name}_fuzzer.cc)\nendforeach()\n"}
        self.assertEqual(self.find({**lists, "tests/fuzz/b_fuzzer.cc": ""}), [])
        self.assertEqual(len(self.find({**lists, "tests/fuzz/c_fuzzer.cc": ""})), 1)

    def find_private(self, first, second, folder="server/base"):
        lists = {f"{folder}/CMakeLists.txt": "keyload_library(base SOURCES error.cc a.cc b.cc)\n"}
        wrap = "namespace keyload {{\nnamespace {{\n{}\n}}  // namespace\n}}  // namespace keyload\n".format
        return self.find({**lists, f"{folder}/a.cc": wrap(first), f"{folder}/b.cc": wrap(second)})

    def test_one_private_name_in_two_files_of_a_folder(self):
        for first, second in (("int Bad(int a) { return a; }", "template <typename T>\nint Bad(const T& a) {\n  return 0;\n}"),
                              ("constexpr int kShown = 1;", "constexpr std::string_view kShown = \"a\";"),
                              ("struct Row {\n  int a;\n};", "class Row final : public Base {\n};"),
                              ("using Clock = std::chrono::steady_clock;", "using Clock = FakeClock;"),
                              ("std::map<int, std::vector<int>> Names(int a);", "auto Names() {\n  return 1;\n}"),
                              ("const char kRows[] = {1, 2};", "Mutex kRows ABSL_GUARDED_BY(other);")):
            found = self.find_private(first, second)
            self.assertEqual(len(found), 1, (first, second, found))
            self.assertIn("server/base/a.cc and server/base/b.cc", found[0])

    def test_static_functions_are_private_names_too(self):
        files = {"server/base/CMakeLists.txt": "keyload_library(base SOURCES error.cc a.cc b.cc)\n",
                 "server/base/a.cc": "namespace keyload {\nstatic int Bad() { return 1; }\n}\n",
                 "server/base/b.cc": "namespace keyload {\nnamespace {\nint Bad() { return 1; }\n}\n}\n"}
        self.assertEqual(len(self.find(files)), 1)

    def test_names_that_are_not_private_may_be_alike(self):
        for first, second in (("struct A {\n  int Size() const { return 1; }\n};", "struct B {\n  int Size() const { return 2; }\n};"),
                              ("// int Bad() {\nint A() { return Bad(1); }", "int B() { int a = 1; return Bad(a); }"),
                              ("namespace fs = std::filesystem;", "namespace fs = std::filesystem;"),
                              ("using std::string;", "using std::string;"),
                              ("constexpr uint64_t kA = uint64_t{2} << 20;", "constexpr uint64_t kB = uint64_t{2} << 20;")):
            self.assertEqual(self.find_private(first, second), [], (first, second))


if __name__ == "__main__":
    unittest.main()
