#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace keyload {

// The numbers of docs/attach.md, which is the specification: what they mean stands there. All integers on the socket
// and in the table are little-endian, so the columns of a table are read where they lie.
static_assert(std::endian::native == std::endian::little, "tables are read without conversion");

inline constexpr uint16_t kAttachVersion = 1;

// The socket.
inline constexpr size_t kAttachPacketBytes = 4096;  // the longest message
inline constexpr size_t kAttachTokenBytes = 32;
inline constexpr uint16_t kMostAttachBatch = 253;         // descriptors that one message can carry, by the kernel
inline constexpr uint32_t kMostAttachDescriptors = 1024;  // of one lease, the table among them
inline constexpr size_t kMostAttachLabelBytes = 128;
inline constexpr size_t kMostAttachNameBytes = 256;  // a lease's or a model's
inline constexpr size_t kMostAttachReasonBytes = 64;
inline constexpr size_t kMostAttachTextBytes = 2048;

// The table.
inline constexpr char kAttachTableMagic[] = "KLTABLE1";  // 8 bytes, without the NUL
inline constexpr uint64_t kMostAttachTableBytes = uint64_t{1} << 30;
inline constexpr size_t kAttachTableHeaderBytes = 64;
inline constexpr size_t kAttachColumnEntryBytes = 24;
inline constexpr size_t kAttachColumnAlignment = 64;
inline constexpr uint32_t kMostAttachColumns = 256;
inline constexpr uint32_t kNoAttachSegment = 0xffffffff;
inline constexpr uint32_t kMostAttachRank = 64;
inline constexpr uint32_t kMostAttachKeyBytes = 4096;
inline constexpr uint8_t kAttachStateResident = 1;  // keyload.v1.KeyState
inline constexpr size_t kAttachChecksumBytes = 16;

enum class AttachColumn : uint32_t {
  kNameEnd = 1,
  kNames = 2,
  kDType = 3,
  kDTypeNames = 4,
  kDimsEnd = 5,
  kDims = 6,
  kSegment = 7,
  kOffset = 8,
  kBytes = 9,
  kState = 10,
  kOrder = 11,
  kStrides = 12,   // optional
  kChecksum = 13,  // optional
  kDTypeBits = 14,
  kDTypeAlignment = 15,
  kSegmentKind = 32,
  kSegmentBytes = 33,
  kSegmentPage = 34,
  kSegmentIncarnation = 35,
  kSegmentDevice = 36,
  kDeviceNames = 37,
};

// What memory a segment is: keyload.v1.Segment.Kind.
enum class AttachSegmentKind : uint8_t { kFile = 1, kMemfd = 2, kCudaVmm = 3 };

}  // namespace keyload
