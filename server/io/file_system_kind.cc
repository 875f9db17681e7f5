#include "server/io/file_system_kind.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <cerrno>

#include "server/base/error.h"

namespace keyload {
namespace {

// Of file systems that linux/magic.h does not know.
constexpr uint32_t kBcachefs = 0xca451a4e;
constexpr uint32_t kJfs = 0x3153464a;
constexpr uint32_t kNtfs3 = 0x7366746e;
constexpr uint32_t kZfs = 0x2fc12fc1;

}  // namespace

FileSystemKind ClassifyFileSystem(uint32_t magic) {
  switch (magic) {
    case EXT4_SUPER_MAGIC:  // ext2 and ext3 too
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case REISERFS_SUPER_MAGIC:
    case NILFS_SUPER_MAGIC:
    case EROFS_SUPER_MAGIC_V1:
    case SQUASHFS_MAGIC:
    case ISOFS_SUPER_MAGIC:
    case UDF_SUPER_MAGIC:
    case MSDOS_SUPER_MAGIC:  // vfat too
    case EXFAT_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
    case HUGETLBFS_MAGIC:
    case kBcachefs:
    case kJfs:
    case kNtfs3:
    case kZfs:
      return FileSystemKind::kLocal;
    default:
      return FileSystemKind::kRemote;
  }
}

absl::StatusOr<FileSystemKind> FileSystemOf(int fd, std::string_view file) {
  struct statfs status;
  while (::fstatfs(fd, &status) != 0) {
    if (errno != EINTR) return ErrnoToStatus(errno, "fstatfs", file);
  }
  return ClassifyFileSystem(static_cast<uint32_t>(status.f_type));
}

}  // namespace keyload
