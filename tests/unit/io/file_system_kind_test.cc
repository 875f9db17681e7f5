#include "server/io/file_system_kind.h"

#include <gtest/gtest.h>
#include <linux/magic.h>

#include "server/base/error.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

TEST(FileSystemKindTest, DiskAndMemoryFileSystemsAreLocal) {
  for (const uint32_t magic : {uint32_t{EXT4_SUPER_MAGIC}, uint32_t{XFS_SUPER_MAGIC}, uint32_t{BTRFS_SUPER_MAGIC},
                               uint32_t{TMPFS_MAGIC}, uint32_t{OVERLAYFS_SUPER_MAGIC}}) {
    EXPECT_EQ(ClassifyFileSystem(magic), FileSystemKind::kLocal) << std::hex << magic;
  }
}

TEST(FileSystemKindTest, NetworkFileSystemsAndFuseAreRemote) {
  constexpr uint32_t kLustre = 0x0bd00bd0;
  constexpr uint32_t kGpfs = 0x47504653;
  constexpr uint32_t kBeegfs = 0x19830326;
  for (const uint32_t magic :
       {uint32_t{NFS_SUPER_MAGIC}, uint32_t{CIFS_SUPER_MAGIC}, uint32_t{SMB2_SUPER_MAGIC}, uint32_t{FUSE_SUPER_MAGIC},
        uint32_t{V9FS_MAGIC}, uint32_t{CEPH_SUPER_MAGIC}, uint32_t{AFS_SUPER_MAGIC}, kLustre, kGpfs, kBeegfs}) {
    EXPECT_EQ(ClassifyFileSystem(magic), FileSystemKind::kRemote) << std::hex << magic;
  }
}

TEST(FileSystemKindTest, WhatIsNotKnownIsRemote) { EXPECT_EQ(ClassifyFileSystem(0x12345678), FileSystemKind::kRemote); }

TEST(FileSystemKindTest, AnOpenFileHasTheKindOfItsFileSystem) {
  const TemporaryFile file({});
  EXPECT_TRUE(FileSystemOf(file.OpenToRead()->get(), file.path()).ok());
  EXPECT_EQ(ErrorReason(FileSystemOf(-1, "gone").status()), Reason::kIoError);
}

}  // namespace
}  // namespace keyload
