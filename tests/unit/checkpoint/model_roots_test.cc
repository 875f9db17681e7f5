#include "server/checkpoint/model_roots.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/error.h"
#include "server/checkpoint/current_roots.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ModelRootsTest : public ::testing::Test {
 protected:
  ModelRootsTest() : root_(dir_.MakeDir("root")), outside_(dir_.MakeDir("root-2")) {
    WriteFile(root_ + "/in", "in");
    WriteFile(outside_ + "/secret", "out");
    roots_ = ModelRoots::Create({root_}).value();
  }

  Reason Refusal(const std::string& path) const {
    const auto opened = roots_.Open(path);
    EXPECT_FALSE(opened.ok()) << path;
    return ErrorReason(opened.status());
  }
  void Link(const std::string& target, const std::string& name) const {
    ASSERT_EQ(::symlink(target.c_str(), (root_ + "/" + name).c_str()), 0);
  }

  TempDir dir_;
  const std::string root_;
  const std::string outside_;  // its name begins with the root's
  ModelRoots roots_;
};

TEST_F(ModelRootsTest, OpensAFileForReading) {
  auto opened = roots_.Open(root_ + "/in");
  ASSERT_TRUE(opened.ok()) << opened.status();
  char byte;
  EXPECT_EQ(::read(opened->fd.get(), &byte, 1), 1);
  EXPECT_EQ(opened->resolved, root_ + "/in");
  EXPECT_FALSE(opened->is_directory);
  EXPECT_EQ(::fcntl(opened->fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(::fcntl(opened->fd.get(), F_GETFL) & (O_ACCMODE | O_PATH), O_RDONLY);
}

TEST_F(ModelRootsTest, OpensTheRootItself) { EXPECT_TRUE(roots_.Open(root_)->is_directory); }

TEST_F(ModelRootsTest, FollowsSymlinksInside) {
  Link("in", "link");
  EXPECT_EQ(roots_.Open(root_ + "/link")->resolved, root_ + "/in");
}

TEST_F(ModelRootsTest, RefusesWhatLiesOutside) {
  EXPECT_EQ(Refusal(outside_ + "/secret"), Reason::kPathNotAllowed);
  EXPECT_EQ(Refusal(root_ + "/../root-2/secret"), Reason::kPathNotAllowed);
  EXPECT_EQ(Refusal("/"), Reason::kPathNotAllowed);
}

TEST_F(ModelRootsTest, RefusesASymlinkThatLeavesAndDoesNotTellWhereTo) {
  Link(outside_ + "/secret", "link");
  const absl::Status status = roots_.Open(root_ + "/link").status();
  EXPECT_EQ(ErrorReason(status), Reason::kPathNotAllowed);
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
}

TEST_F(ModelRootsTest, DoesNotTellWhetherSomethingOutsideExists) {
  EXPECT_EQ(Refusal(outside_ + "/nothing"), Reason::kPathNotAllowed);
  EXPECT_EQ(Refusal(root_ + "/../root-2/nothing"), Reason::kPathNotAllowed);
  Link(outside_ + "/nothing", "dangling");
  EXPECT_EQ(Refusal(root_ + "/dangling"), Reason::kPathNotAllowed);
  Link(outside_, "away");
  EXPECT_EQ(Refusal(root_ + "/away/nothing"), Reason::kPathNotAllowed);
}

TEST_F(ModelRootsTest, WhatIsMissingInsideIsNotFound) {
  EXPECT_EQ(Refusal(root_ + "/nothing"), Reason::kCheckpointNotFound);
  EXPECT_EQ(Refusal(root_ + "/nothing/deeper/"), Reason::kCheckpointNotFound);
  EXPECT_EQ(Refusal(root_ + "/in/deeper"), Reason::kCheckpointNotFound);
  Link("nothing", "dangling");
  EXPECT_EQ(Refusal(root_ + "/dangling"), Reason::kCheckpointNotFound);
}

TEST_F(ModelRootsTest, ASymlinkLoopEnds) {
  Link("b", "a");
  Link("a", "b");
  EXPECT_FALSE(roots_.Open(root_ + "/a").ok());
}

TEST_F(ModelRootsTest, MalformedPathsAreBadRequests) {
  EXPECT_EQ(Refusal(""), Reason::kBadRequest);
  EXPECT_EQ(Refusal("root/in"), Reason::kBadRequest);
  EXPECT_EQ(Refusal(root_ + std::string("/in\0x", 5)), Reason::kBadRequest);
  EXPECT_EQ(Refusal("/" + std::string(5000, 'x')), Reason::kBadRequest);
}

TEST_F(ModelRootsTest, AFifoIsRefusedWithoutWaitingForItsWriter) {
  ASSERT_EQ(::mkfifo((root_ + "/fifo").c_str(), 0600), 0);
  EXPECT_EQ(Refusal(root_ + "/fifo"), Reason::kBadRequest);
}

TEST_F(ModelRootsTest, WithoutRootsTheErrorSaysSo) {
  const absl::Status status = ModelRoots().Open(root_ + "/in").status();
  EXPECT_EQ(ErrorReason(status), Reason::kPathNotAllowed);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has no --model-root"));
}

TEST_F(ModelRootsTest, ARootMayBeASymlink) {
  ASSERT_EQ(::symlink(root_.c_str(), dir_.File("alias").c_str()), 0);
  const ModelRoots roots = ModelRoots::Create({dir_.File("alias")}).value();
  EXPECT_TRUE(roots.Open(dir_.File("alias") + "/in").ok());
  EXPECT_EQ(ErrorReason(roots.Open(dir_.File("alias") + "/nothing").status()), Reason::kCheckpointNotFound);
}

TEST_F(ModelRootsTest, ARootMustBeADirectory) {
  EXPECT_EQ(ErrorReason(ModelRoots::Create({root_ + "/in"}).status()), Reason::kBadRequest);
  EXPECT_EQ(ErrorReason(ModelRoots::Create({root_ + "/nothing"}).status()), Reason::kCheckpointNotFound);
}

TEST(ModelRootsSlashTest, TheRootDirectoryAllowsEverything) {
  TempDir dir;
  EXPECT_TRUE(ModelRoots::Create({"/"})->Open(dir.path()).ok());
}

TEST_F(ModelRootsTest, WhoHasTakenTheCurrentRootsKeepsThemWhenTheyChange) {
  CurrentRoots current(roots_);
  const std::shared_ptr<const ModelRoots> taken = current.get();
  current.Set(ModelRoots::Create({outside_}).value());
  EXPECT_TRUE(taken->Open(root_ + "/in").ok());
  EXPECT_EQ(ErrorReason(current.get()->Open(root_ + "/in").status()), Reason::kPathNotAllowed);
  EXPECT_TRUE(current.get()->Open(outside_ + "/secret").ok());
}

}  // namespace
}  // namespace keyload
