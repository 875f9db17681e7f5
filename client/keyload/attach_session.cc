#include "keyload/attach_session.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <variant>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace keyload {
namespace {

constexpr char kReasonPayload[] = "keyload.attach/reason";
constexpr absl::string_view kUnix = "unix:";
constexpr uint64_t kTablePage = 4096;

template <typename... T>
absl::Status Broken(const T&... what) {
  return absl::DataLossError(absl::StrCat("the server's attach socket: ", what..., "; nothing of it is used"));
}

// The size of a regular file, if it cannot become smaller and its bytes are protected by one of `write_seals`.
absl::StatusOr<uint64_t> SealedSize(int descriptor, int write_seals) {
  struct stat status = {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) return Broken("a descriptor is no file");
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & write_seals) == 0)
    return Broken("memory is not sealed: somebody could cut or change it");
  return static_cast<uint64_t>(status.st_size);
}

absl::StatusOr<uint64_t> FileSize(int descriptor) {
  struct stat status = {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) return Broken("a descriptor is no file");
  return static_cast<uint64_t>(status.st_size);
}

std::chrono::steady_clock::time_point After(absl::Duration timeout) {
  constexpr absl::Duration kLongest = absl::Hours(24 * 365);
  return std::chrono::steady_clock::now() +
         absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), kLongest));
}

}  // namespace

absl::Status StatusOfAttachError(const AttachError& error) {
  absl::Status status(error.code, error.text);
  status.SetPayload(kReasonPayload, absl::Cord(error.reason));
  return status;
}

std::string AttachErrorReason(const absl::Status& status) {
  const absl::optional<absl::Cord> reason = status.GetPayload(kReasonPayload);
  return reason ? std::string(*reason) : std::string();
}

AttachSession::AttachSession(absl::Duration timeout)
    : deadline_(After(timeout)), model_(std::make_unique<AttachedModel::State>()) {}

absl::StatusOr<AttachedModel> AttachSession::Run(const std::string& address, const AttachMessage& greeting) {
  if (address.compare(0, kUnix.size(), kUnix.data()) != 0)
    return absl::InvalidArgumentError(absl::StrCat("an attach address is unix:PATH, not ", address.substr(0, 200)));
  const auto left = absl::FromChrono(deadline_ - std::chrono::steady_clock::now());
  absl::StatusOr<UniqueFd> connection = ConnectAttachSocket(address.substr(kUnix.size()), left);
  if (!connection.ok()) return connection.status();
  return RunOn(*std::move(connection), greeting);
}

absl::StatusOr<AttachedModel> AttachSession::RunOn(UniqueFd connection, const AttachMessage& greeting) {
  model_->connection = std::move(connection);
  model_->owner = getpid();
  // The server's refusal may be there already, and sending fails then: the refusal says more.
  const absl::Status greeted = Send(greeting);
  if (absl::IsInvalidArgument(greeted)) return greeted;
  absl::StatusOr<AttachMessage> message = Receive();
  if (!message.ok()) return message.status();
  if (absl::Status status = TakeTable(*message); !status.ok()) return status;
  while (true) {
    if (absl::Status status = Send(AttachNext{.descriptor = next_}); !status.ok()) return status;
    if (next_ == descriptors_) return AttachedModel(std::move(model_));
    message = Receive();
    if (!message.ok()) return message.status();
    if (absl::Status status = TakeSegments(*message); !status.ok()) return status;
  }
}

absl::Status AttachSession::Send(const AttachMessage& message) {
  const absl::StatusOr<std::string> bytes = EncodeAttachMessage(message);
  if (!bytes.ok()) return bytes.status();
  const int error = SendAttachPacket(model_->connection.get(), *bytes, {});
  if (error == 0 || error == EPIPE || error == ECONNRESET) return absl::OkStatus();  // receiving tells why
  return absl::UnavailableError(absl::StrCat("sending to the attach socket: ", std::strerror(error)));
}

absl::StatusOr<AttachMessage> AttachSession::Receive() {
  while (true) {
    const int error = ReceiveAttachPacket(model_->connection.get(), kMostAttachBatch, packet_);
    if (error == 0) break;
    if (error != EAGAIN) return absl::UnavailableError(absl::StrCat("the attach socket: ", std::strerror(error)));
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - std::chrono::steady_clock::now());
    if (left.count() <= 0) return absl::DeadlineExceededError("the server did not hand the model out in time");
    pollfd wait = {.fd = model_->connection.get(), .events = POLLIN, .revents = 0};
    poll(&wait, 1, static_cast<int>(std::min<int64_t>(left.count(), 60'000)));
  }
  if (packet_.bytes.empty()) return absl::UnavailableError("the server closed the attach connection");
  if (packet_.too_long) return Broken("a message is too long");
  absl::StatusOr<AttachMessage> message = DecodeAttachMessage(packet_.bytes);
  if (!message.ok()) return Broken(message.status().message());
  if (const auto* error = std::get_if<AttachError>(&*message)) return StatusOfAttachError(*error);
  return message;
}

absl::Status AttachSession::TakeTable(const AttachMessage& message) {
  const auto* const granted = std::get_if<AttachGranted>(&message);
  if (granted == nullptr) return Broken("it does not answer with GRANT");
  if (packet_.descriptors.empty() && packet_.lost_descriptors)
    return absl::ResourceExhaustedError("this process may not open another descriptor (RLIMIT_NOFILE)");
  if (packet_.descriptors.size() != 1) return Broken("GRANT does not bring one descriptor");
  const int table = packet_.descriptors[0].get();
  const absl::StatusOr<uint64_t> size = SealedSize(table, F_SEAL_WRITE);
  if (!size.ok()) return size.status();
  if (*size > kMostAttachTableBytes) return Broken("its table is too large");
  absl::StatusOr<ReadOnlyMapping> mapped = ReadOnlyMapping::Map(table, *size, kTablePage);
  if (!mapped.ok()) return mapped.status();
  absl::StatusOr<AttachTable> parsed = AttachTable::Parse(mapped->bytes());
  if (!parsed.ok()) return Broken(parsed.status().message());
  if (parsed->generation() != granted->generation || parsed->segments() + 1 != granted->descriptors)
    return Broken("its table is of another lease");
  model_->lease = granted->lease;
  model_->generation = granted->generation;
  model_->table_bytes = *std::move(mapped);
  model_->table = *std::move(parsed);
  model_->segments.resize(model_->table.segments());
  descriptors_ = granted->descriptors;
  next_ = 1;
  return absl::OkStatus();
}

absl::Status AttachSession::TakeSegments(const AttachMessage& message) {
  const auto* const range = std::get_if<AttachDescriptors>(&message);
  if (range == nullptr) return Broken("it does not answer NEXT with FDS");
  const size_t arrived = packet_.descriptors.size();
  if (range->first != next_ || range->count > descriptors_ - next_ || arrived > range->count)
    return Broken("FDS brings other descriptors than are next");
  if (arrived == 0) {
    return absl::ResourceExhaustedError(
        "this process may not open another descriptor (RLIMIT_NOFILE): close some, or raise its limit");
  }
  if (arrived < range->count && !packet_.lost_descriptors) return Broken("FDS brings fewer descriptors than it says");
  for (const UniqueFd& descriptor : packet_.descriptors) {
    if (absl::Status status = MapSegment(next_ - 1, descriptor.get()); !status.ok()) return status;
    ++next_;
  }
  packet_.descriptors.clear();
  return absl::OkStatus();
}

absl::Status AttachSession::MapSegment(uint32_t index, int descriptor) {
  const AttachSegmentRow segment = model_->table.segment(index);
  if (segment.kind == AttachSegmentKind::kCudaVmm) {
    return absl::UnimplementedError(
        absl::StrCat("the model has memory on ", absl::string_view(segment.device.data(), segment.device.size()),
                     ", which this library does not map: ask for keys in host memory only"));
  }
  const bool memory = segment.kind == AttachSegmentKind::kMemfd;
  const absl::StatusOr<uint64_t> size =
      memory ? SealedSize(descriptor, F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) : FileSize(descriptor);
  if (!size.ok()) return size.status();
  if (*size < segment.bytes) return Broken("segment ", index, " is smaller than its table says");
  const bool final_bytes = memory && (fcntl(descriptor, F_GET_SEALS) & F_SEAL_WRITE) != 0;
  model_->immutable = model_->immutable && final_bytes;
  absl::StatusOr<ReadOnlyMapping> mapped = ReadOnlyMapping::Map(descriptor, segment.bytes, segment.page);
  if (!mapped.ok()) return mapped.status();
  model_->segments[index] = *std::move(mapped);
  return absl::OkStatus();
}

}  // namespace keyload
