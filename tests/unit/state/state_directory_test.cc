#include "server/state/state_directory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "server/base/error.h"
#include "server/base/fd.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

namespace fs = std::filesystem;

class StateDirectoryTest : public testing::Test {
 protected:
  StateDirectoryTest()
      : path_(fs::path(testing::TempDir()) / "state" / testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(path_);
  }
  ~StateDirectoryTest() override { fs::remove_all(path_); }

  absl::StatusOr<StateDirectory> Open() { return StateDirectory::Open(path_.string(), {"models", "loads"}); }
  std::vector<std::string> Names(const StateDirectory& state, std::string_view kind) {
    const absl::StatusOr<std::vector<std::string>> names = state.Names(kind);
    EXPECT_TRUE(names.ok()) << names.status();
    return names.value_or(std::vector<std::string>());
  }
  void Put(const fs::path& file, std::string_view bytes) { std::ofstream(file, std::ios::binary) << bytes; }

  const fs::path path_;
};

TEST_F(StateDirectoryTest, KeepsRecordsOfEachKindUnderTheirNames) {
  {
    const auto state = Open();
    ASSERT_TRUE(state.ok()) << state.status();
    const std::string bytes("a\0b\n", 4);
    ASSERT_TRUE(state->Write("models", "one", bytes).ok());
    ASSERT_TRUE(state->Write("models", "one", bytes + bytes).ok());
    ASSERT_TRUE(state->Write("models", "two", "").ok());
    ASSERT_TRUE(state->Write("loads", "one", "other").ok());
    ASSERT_TRUE(state->Write("loads", "gone", "x").ok());
    ASSERT_TRUE(state->Remove("loads", "gone").ok());
    EXPECT_TRUE(state->Remove("loads", "gone").ok()) << "again is fine";
  }
  const auto state = Open();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_THAT(Names(*state, "models"), testing::ElementsAre("one", "two"));
  EXPECT_EQ(state->Read("models", "one").value_or(""), std::string("a\0b\na\0b\n", 8));
  EXPECT_EQ(state->Read("models", "two").value_or("?"), "");
  EXPECT_THAT(Names(*state, "loads"), testing::ElementsAre("one"));
  EXPECT_EQ(state->Read("loads", "one").value_or(""), "other");
  EXPECT_EQ(ErrorReason(state->Read("loads", "gone").status()), Reason::kCheckpointNotFound);
}

TEST_F(StateDirectoryTest, TellsWhatIsNotWhatWasWrittenAndSetsItAside) {
  const auto state = Open();
  ASSERT_TRUE(state.ok());
  for (const char* name : {"changed", "cut", "good"}) ASSERT_TRUE(state->Write("models", name, "0123456789").ok());
  {
    std::fstream file(path_ / "models" / "changed", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file << 'X';
  }
  fs::resize_file(path_ / "models" / "cut", fs::file_size(path_ / "models" / "cut") - 1);
  Put(path_ / "models" / "empty", "");
  Put(path_ / "models" / "foreign", "{}\n");
  for (const char* name : {"changed", "cut", "empty", "foreign"}) {
    const absl::Status status = state->Read("models", name).status();
    EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt) << name;
    state->SetAside("models", name, status);
    EXPECT_TRUE(fs::exists(path_ / "aside" / StrCat("models-", name))) << name;
  }
  EXPECT_THAT(Names(*state, "models"), testing::ElementsAre("good"));
  fs::create_directory(path_ / "models" / "folder");
  EXPECT_EQ(ErrorReason(state->Read("models", "folder").status()), Reason::kIoError) << "not known to be corrupt";
}

TEST_F(StateDirectoryTest, RemovesWhatAKilledProcessLeftHalfWritten) {
  fs::create_directories(path_ / "models");
  Put(path_ / "models" / ".half-one", "half");
  const auto state = Open();
  ASSERT_TRUE(state.ok());
  EXPECT_FALSE(fs::exists(path_ / "models" / ".half-one"));
  EXPECT_THAT(Names(*state, "models"), testing::IsEmpty());
}

TEST_F(StateDirectoryTest, IsOneProcessesAloneAndClosedToOthers) {
  const auto first = Open();
  ASSERT_TRUE(first.ok());
  const auto second = Open();
  ASSERT_EQ(ErrorReason(second.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr("another keyloadd"));
  struct stat info = {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_TRUE(first->Write("models", "one", "x").ok());
  ASSERT_EQ(stat((path_ / "models" / "one").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(StateDirectoryTest, SaysWhatTheSystemRefuses) {
  fs::create_directories(path_.parent_path());
  Put(path_, "a file");
  const auto state = Open();
  EXPECT_EQ(ErrorReason(state.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(state.status().message()), testing::HasSubstr(path_.string()));
}

TEST_F(StateDirectoryTest, AFailedWriteLeavesTheRecordBefore) {
  const auto state = Open();
  ASSERT_TRUE(state.ok());
  ASSERT_TRUE(state->Write("models", "one", "before").ok());
  fs::create_directory(path_ / "models" / ".half-one");  // in the way of the next write
  EXPECT_EQ(ErrorReason(state->Write("models", "one", "after")), Reason::kIoError);
  EXPECT_EQ(state->Read("models", "one").value_or(""), "before");
}

TEST_F(StateDirectoryTest, WriteWhoseFolderCannotBeSyncedLeavesWhatWasBefore) {
  int refuse = 0;
  const auto state = StateDirectory::Open(path_.string(), {"models"}, [&refuse](int) {
    errno = EIO;
    return refuse > 0 ? -1 : 0;
  });
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_TRUE(state->Write("models", "one", "before").ok());
  refuse = 1;
  EXPECT_EQ(ErrorReason(state->Write("models", "one", "after")), Reason::kIoError);
  EXPECT_EQ(ErrorReason(state->Write("models", "two", "new")), Reason::kIoError);
  refuse = 0;
  EXPECT_EQ(state->Read("models", "one").value_or(""), "before");
  EXPECT_THAT(Names(*state, "models"), testing::ElementsAre("one"));
  EXPECT_FALSE(fs::exists(path_ / "models" / ".half-one"));
}

TEST_F(StateDirectoryTest, SeveralRecordsCostOneSyncOfTheirFolderAndOneThatFailsCostsItselfAlone) {
  int syncs = 0;
  const auto state = StateDirectory::Open(path_.string(), {"loads"}, [&syncs](int) { return ++syncs, 0; });
  ASSERT_TRUE(state.ok()) << state.status();
  fs::create_directory(path_ / "loads" / ".half-b");  // in the way
  const std::vector<StateDirectory::Record> records = {{"a", "1"}, {"b", "2"}, {"c", "3"}};
  EXPECT_EQ(ErrorReason(state->WriteAll("loads", records)), Reason::kIoError);
  EXPECT_EQ(syncs, 1);
  EXPECT_THAT(Names(*state, "loads"), testing::ElementsAre("a", "c"));
  EXPECT_TRUE(state->Forget("loads", std::vector<std::string>{"a", "gone"}).ok());
  EXPECT_EQ(syncs, 1) << "what is forgotten is not brought to the disk";
  EXPECT_THAT(Names(*state, "loads"), testing::ElementsAre("c"));
}

TEST_F(StateDirectoryTest, FullDescriptorTableDoesNotStopARemoval) {
  const auto state = Open();
  ASSERT_TRUE(state.ok());
  ASSERT_TRUE(state->Write("models", "one", "x").ok());
  std::vector<UniqueFd> descriptors;
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlim_t before = std::exchange(limit.rlim_cur, 64);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  for (int fd = open("/dev/null", O_RDONLY); fd >= 0; fd = open("/dev/null", O_RDONLY)) descriptors.emplace_back(fd);
  const absl::Status written = state->Write("models", "one", "y");
  const absl::Status removed = state->Remove("models", "one");
  descriptors.clear();
  limit.rlim_cur = before;
  setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(ErrorReason(written), Reason::kIoError);
  EXPECT_TRUE(removed.ok()) << removed;
  EXPECT_THAT(Names(*state, "models"), testing::IsEmpty());
}

TEST_F(StateDirectoryTest, FolderThatCannotBeListedIsAnError) {
  const auto state = Open();
  ASSERT_TRUE(state.ok());
  fs::remove_all(path_ / "models");
  EXPECT_EQ(ErrorReason(state->Names("models").status()), Reason::kIoError);
}

}  // namespace
}  // namespace keyload
