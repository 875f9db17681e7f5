// Replays the fuzzers' corpora, so that what they once found stays fixed in builds without a fuzzer.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/fuzz/attach_fuzz.h"
#include "tests/fuzz/checkpoint_fuzz.h"
#include "tests/fuzz/expected_fuzz.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/support/source_dir.h"

namespace keyload {
namespace {

void Replay(const std::string& corpus, void (*fuzz)(std::string_view)) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SourceDir() + "/tests/fuzz/corpus/" + corpus)) {
    SCOPED_TRACE(entry.path());
    const std::string content = ReadFile(entry.path());
    fuzz(content);
    // Every way to cut it off, too.
    for (size_t size = 0; size < content.size(); ++size) fuzz(std::string_view(content).substr(0, size));
    ++files;
  }
  EXPECT_GT(files, 0u);
}

TEST(CorpusTest, SafetensorsHeader) { Replay("safetensors_header", FuzzSafetensorsHeader); }
TEST(CorpusTest, ConfigJson) { Replay("config_json", FuzzConfigJson); }
TEST(CorpusTest, Template) { Replay("template", FuzzTemplate); }
TEST(CorpusTest, AttachMessage) { Replay("attach_message", FuzzAttachMessage); }
TEST(CorpusTest, AttachTable) { Replay("attach_table", FuzzAttachTable); }
TEST(CorpusTest, AttachServer) { Replay("attach_server", FuzzAttachServer); }
TEST(CorpusTest, AttachClient) { Replay("attach_client", FuzzAttachClient); }
TEST(CorpusTest, IndexFile) { Replay("index_file", FuzzIndexFile); }

}  // namespace
}  // namespace keyload
