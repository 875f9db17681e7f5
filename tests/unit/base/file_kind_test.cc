#include "server/base/file_kind.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/base/error.h"

namespace keyload {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;

std::string IdOf(const std::string& bytes) {
  const auto kind = RecognizeFile(bytes, bytes.size());
  return kind ? std::string(kind->id) : "";
}
std::string IdOfName(const std::string& name) {
  const auto kind = RecognizeName(name);
  return kind ? std::string(kind->id) : "";
}
std::string InsteadOfJson(const std::string& bytes) {
  const auto kind = RecognizeInsteadOfJson(bytes, bytes.size());
  return kind ? std::string(kind->id) : "";
}
std::string InsteadOfList(const std::string& bytes) {
  const auto kind = RecognizeInsteadOfList(bytes, bytes.size());
  return kind ? std::string(kind->id) : "";
}

constexpr char kPointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 4202889352\n";

TEST(FileKind, AnswersOfServers) {
  EXPECT_EQ(IdOf(kPointer), "git_lfs_pointer");
  EXPECT_EQ(IdOf("<!DOCTYPE html><html>"), "html");
  EXPECT_EQ(IdOf("\n\n  <HTML lang=en>"), "html");
  EXPECT_EQ(IdOf("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>"), "xml");
  EXPECT_EQ(IdOf("{\"error\": \"Repository not found\"}"), "json_error");
  EXPECT_EQ(IdOf("{\n \"message\":\"rate limit\"}"), "json_error");
  EXPECT_EQ(IdOf("{\"weight_map\": {}}"), "json");
  EXPECT_EQ(IdOf("[\"a\"]"), "json");
  EXPECT_EQ(IdOf("Entry not found"), "text");
  EXPECT_EQ(IdOf("\xEF\xBB\xBF<html>"), "html");
}

TEST(FileKind, OtherFormats) {
  EXPECT_EQ(IdOf("PK\x03\x04\x14\x00\x08"s), "zip");
  EXPECT_EQ(IdOf("\x80\x02}q\x00X"s), "pickle");
  EXPECT_EQ(IdOf("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00"s), "pickle");
  EXPECT_EQ(IdOf("GGUF\x03\x00\x00\x00"s), "gguf");
  EXPECT_EQ(IdOf("\x08\x07\x12\x07pytorch"), "onnx");
  EXPECT_EQ(IdOf("\x89HDF\r\n\x1a\n"), "hdf5");
  EXPECT_EQ(IdOf("\x93NUMPY\x01\x00v"s), "numpy");
  EXPECT_EQ(IdOf("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"s), "gzip");
  EXPECT_EQ(IdOf("\xfd"
                 "7zXZ\x00\x00\x04"s),
            "xz");
  EXPECT_EQ(IdOf("\x28\xb5\x2f\xfd\x24"), "zstd");
  EXPECT_EQ(IdOf("\x81\xa6params\x82"), "msgpack");
  EXPECT_EQ(IdOf(std::string("model.safetensors") + std::string(240, '\0') + "ustar"), "tar");
}

TEST(FileKind, NothingInIt) {
  EXPECT_EQ(IdOf(""), "empty");
  EXPECT_EQ(IdOf(std::string(100, '\0')), "zeros");
  EXPECT_THAT(RecognizeFile(std::string(kFileKindBytes, '\0'), 1 << 20)->what, HasSubstr("in its first 512"));
}

TEST(FileKind, TextOfAnotherEncoding) {
  EXPECT_EQ(IdOf("\xff\xfem\x00o\x00"s), "utf16");
  EXPECT_EQ(IdOf("\xfe\xff\x00m\x00o"s), "utf16");
  EXPECT_EQ(IdOf("m\x00o\x00"s + "d\x00"s + "e\x00"s), "utf16");
}

// The length of the header may be any number: 5,767,808 begins as a pickle, 559,903 as gzip.
TEST(FileKind, SafetensorsAreNeverTakenForSomethingElse) {
  const std::string header = "{\"a\":{}}";
  for (const std::string& length : {"\x80\x02\x58\x00\x00\x00\x00\x00"s, "\x1f\x8b\x08\x00\x00\x00\x00\x00"s,
                                    "\x08\x07\x3a\x01\x00\x00\x00\x00"s, "BZh\x00\x00\x00\x00\x00"s}) {
    EXPECT_FALSE(RecognizeFile(length + " " + header, 100'000'000).has_value());
    EXPECT_TRUE(RecognizeFile(length.substr(0, 4), 100'000'000).has_value());
  }
  EXPECT_EQ(IdOf("\x01\x02\x03\xff"), "");
}

TEST(FileKind, AnObjectThatIsNoErrorMessageIsLeftToItsParser) {
  EXPECT_EQ(InsteadOfJson("{\"weight_map\": }"), "");
  EXPECT_EQ(InsteadOfJson("\xEF\xBB\xBF {'single': 1}"), "");
  EXPECT_EQ(InsteadOfJson("{\"error\": \"x\"}"), "json_error");
  EXPECT_EQ(InsteadOfJson(kPointer), "git_lfs_pointer");
  EXPECT_EQ(InsteadOfJson("\xff\xfe{\x00"s), "utf16");
  EXPECT_EQ(InsteadOfJson("Entry not found"), "text");
}

TEST(FileKind, NamesThatLookLikeASignatureAreNames) {
  EXPECT_EQ(InsteadOfList("model.layers.0.weight\n"), "");
  EXPECT_EQ(InsteadOfList("GGUF.weight\nBZh.bias\n"), "");
  EXPECT_EQ(InsteadOfList("{x}.weight\n[1].bias\n"), "");
  EXPECT_EQ(InsteadOfList("[\"a\", \"b\"]"), "json");
  EXPECT_EQ(InsteadOfList("PK\x03\x04\x14\x00"s), "zip");
  EXPECT_EQ(InsteadOfList("<html>"), "html");
}

TEST(FileKind, Names) {
  EXPECT_EQ(IdOfName("model.gguf"), "gguf");
  EXPECT_EQ(IdOfName("pytorch_model.bin"), "pickle");
  EXPECT_EQ(IdOfName("pytorch_model.bin.index.json"), "pickle");
  EXPECT_EQ(IdOfName("consolidated.00.pth"), "pickle");
  EXPECT_EQ(IdOfName("model.safetensors.part-aa"), "split");
  EXPECT_EQ(IdOfName("model.safetensors.001"), "split");
  EXPECT_EQ(IdOfName("model.safetensors.part1of3"), "split");
  EXPECT_EQ(IdOfName("0a1b.incomplete"), "incomplete");
  EXPECT_EQ(IdOfName("MODEL.SAFETENSORS"), "capitals");
  for (const char* name : {"model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
                           "config.json", "README.md", "tokenizer.model", ".safetensors", ""}) {
    EXPECT_EQ(IdOfName(name), "") << name;
  }
}

TEST(FileKind, TheErrorSaysWhatToDo) {
  const absl::Status pointer = WrongKind(Reason::kCheckpointCorrupt, "/m/x.safetensors", *RecognizeFile(kPointer, 130));
  EXPECT_EQ(ErrorReason(pointer), Reason::kCheckpointCorrupt);
  EXPECT_EQ(pointer.message(),
            "/m/x.safetensors is a Git LFS pointer to 4202889352 bytes, not the file itself; fetch the file with `git "
            "lfs pull`");
  EXPECT_EQ(ErrorDetails(pointer).at("found"), "git_lfs_pointer");
  const absl::Status zip = WrongKind(Reason::kCheckpointCorrupt, "x", *RecognizeFile("PK\x03\x04", 4));
  EXPECT_EQ(ErrorReason(zip), Reason::kFormatNotSupported);
}

}  // namespace
}  // namespace keyload
