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


if __name__ == "__main__":
    unittest.main()
