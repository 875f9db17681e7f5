#include "keyload/attach.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "attach/attach_messages.h"
#include "attach/attach_socket.h"
#include "keyload/attach_session.h"

namespace keyload {

AttachedModel::AttachedModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
AttachedModel::AttachedModel(AttachedModel&& other) noexcept = default;
AttachedModel& AttachedModel::operator=(AttachedModel&& other) noexcept = default;
AttachedModel::~AttachedModel() = default;

const std::string& AttachedModel::lease() const { return state_->lease; }
uint64_t AttachedModel::generation() const { return state_->generation; }
size_t AttachedModel::size() const { return state_->table.rows(); }
bool AttachedModel::immutable() const { return state_->immutable; }
int AttachedModel::notice_fd() const { return state_->connection.get(); }

AttachedTensor AttachedModel::operator[](size_t index) const {
  const AttachRow row = state_->table.row(static_cast<uint32_t>(index));
  AttachedTensor tensor = {.key = row.key,
                           .dtype = row.dtype,
                           .shape = row.shape,
                           .strides = row.strides,
                           .checksum = row.checksum,
                           .resident = row.state == kAttachStateResident,
                           .order = row.order,
                           .element_bits = row.dtype_bits};
  if (row.segment != kNoAttachSegment)
    tensor.bytes = state_->segments[row.segment].bytes().subspan(row.offset, row.bytes);
  return tensor;
}

std::optional<AttachedTensor> AttachedModel::Find(std::string_view key) const {
  const std::optional<uint32_t> row = state_->table.Find(key);
  if (!row) return std::nullopt;
  return (*this)[*row];
}

absl::StatusOr<std::optional<AttachNotice>> AttachedModel::NextNotice() {
  AttachPacket packet;
  const int error = state_->connection ? ReceiveAttachPacket(state_->connection.get(), 0, packet) : ENOTCONN;
  if (error == EAGAIN) return std::nullopt;
  if (error != 0) return absl::UnavailableError(absl::StrCat("the lease has ended: ", std::strerror(error)));
  if (packet.bytes.empty()) return absl::UnavailableError("the lease has ended: the server closed its connection");
  absl::StatusOr<AttachMessage> message = DecodeAttachMessage(packet.bytes);
  if (!message.ok()) return message.status();
  if (const auto* note = std::get_if<AttachNote>(&*message))
    return AttachNotice{.kind = static_cast<AttachNotice::Kind>(note->kind), .generation = note->generation};
  if (auto* ended = std::get_if<AttachError>(&*message)) {
    ended->code = absl::StatusCode::kUnavailable;
    ended->text = absl::StrCat("the lease has ended: ", ended->text);
    return StatusOfAttachError(*ended);
  }
  return absl::DataLossError("the server sent a message that a complete lease does not get");
}

void AttachedModel::Release() {
  if (state_->connection && state_->owner == getpid()) {
    if (const auto release = EncodeAttachMessage(AttachRelease()); release.ok())
      SendAttachPacket(state_->connection.get(), *release, {});
  }
  state_->connection = UniqueFd();
}

absl::StatusOr<AttachedModel> Attach(const std::string& address, const AttachToken& token,
                                     const AttachOptions& options) {
  AttachHello hello = {.token = {}, .batch = options.batch, .label = options.label};
  if (token.bytes.size() != hello.token.size())
    return absl::InvalidArgumentError(absl::StrCat("an attach token has 32 bytes, not ", token.bytes.size()));
  std::copy(token.bytes.begin(), token.bytes.end(), hello.token.begin());
  return AttachSession(options.timeout).Run(address, hello);
}

absl::StatusOr<AttachedModel> Attach(const std::string& address, const AttachSelection& selection,
                                     const AttachOptions& options) {
  return AttachSession(options.timeout)
      .Run(address, AttachRequest{.batch = options.batch,
                                  .materialize = selection.materialize,
                                  .label = options.label,
                                  .model = selection.model,
                                  .include = selection.include,
                                  .exclude = selection.exclude,
                                  .keys = selection.keys});
}

}  // namespace keyload
