#include "attach/attach_messages.h"

#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace keyload {
namespace {

constexpr std::string_view kMagic = "KLA1";
constexpr uint16_t kMaterializeFlag = 1;
constexpr uint32_t kLastStatusCode = 16;  // UNAUTHENTICATED

enum class MessageType : uint16_t {
  kHello = 1,
  kGrant = 2,
  kNext = 3,
  kDescriptors = 4,
  kNote = 5,
  kRelease = 6,
  kError = 8,  // 7 is reserved
  kRequest = 9,
};

absl::Status Malformed(const char* what) { return absl::InvalidArgumentError(absl::StrCat("attach message: ", what)); }

// Appends fields and remembers the first that is out of its bounds.
class MessageWriter {
 public:
  explicit MessageWriter(MessageType type) : bytes_(kMagic) {
    Integer(static_cast<uint16_t>(type));
    Integer(kAttachVersion);
  }

  template <typename T>
  void Integer(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    bytes_.append(bytes, sizeof(T));
  }
  void Raw(const AttachTokenBytes& token) { bytes_.append(reinterpret_cast<const char*>(token.data()), token.size()); }
  void Text(std::string_view text, size_t most, const char* what) {
    Require(text.size() <= most, what);
    Integer(static_cast<uint16_t>(text.size()));
    bytes_.append(text);
  }
  void Texts(const std::vector<std::string>& texts, const char* what) {
    Require(texts.size() <= kAttachPacketBytes, what);
    Integer(static_cast<uint16_t>(texts.size()));
    for (const std::string& text : texts) {
      if (bytes_.size() > kAttachPacketBytes) return;  // too long already: no need to copy the rest
      Text(text, kAttachPacketBytes, what);
    }
  }
  void Require(bool holds, const char* what) {
    if (!holds && problem_ == nullptr) problem_ = what;
  }

  absl::StatusOr<std::string> Take() && {
    Require(bytes_.size() <= kAttachPacketBytes, "it is longer than 4,096 bytes: send fewer or shorter names");
    if (problem_ != nullptr) return Malformed(problem_);
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  const char* problem_ = nullptr;
};

// Takes fields off the front; what is not there, or out of its bounds, makes the whole message malformed.
class MessageReader {
 public:
  explicit MessageReader(std::string_view bytes) : left_(bytes) {}

  template <typename T>
  T Integer() {
    T value = 0;
    const std::string_view bytes = Bytes(sizeof(T));
    if (ok()) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view Bytes(size_t count) {
    if (count > left_.size()) Fail("it ends too early");
    if (!ok()) return {};
    const std::string_view bytes = left_.substr(0, count);
    left_.remove_prefix(count);
    return bytes;
  }
  std::string Text(size_t most, const char* what) {
    const auto size = Integer<uint16_t>();
    Require(size <= most, what);
    return std::string(Bytes(size));
  }
  std::vector<std::string> Texts(const char* what) {
    const auto count = Integer<uint16_t>();
    Require(count <= left_.size() / sizeof(uint16_t), what);  // each has its length at least
    std::vector<std::string> texts;
    for (uint16_t i = 0; i < count && ok(); ++i) texts.push_back(Text(kAttachPacketBytes, what));
    return texts;
  }
  void Require(bool holds, const char* what) {
    if (!holds) Fail(what);
  }
  bool ok() const { return problem_ == nullptr; }

  template <typename Message>
  absl::StatusOr<AttachMessage> Finish(Message message) {
    Require(left_.empty(), "bytes follow its end");
    if (!ok()) return problem();
    return AttachMessage(std::move(message));
  }
  absl::Status problem() const { return Malformed(problem_); }

 private:
  void Fail(const char* what) {
    if (problem_ == nullptr) problem_ = what;
  }

  std::string_view left_;
  const char* problem_ = nullptr;
};

constexpr char kBadBatch[] = "a batch has 1 to 253 descriptors";
constexpr char kBadLabel[] = "a label has at most 128 bytes";
constexpr char kBadModel[] = "a model's name has 1 to 256 bytes";
constexpr char kBadLease[] = "a lease's name has 1 to 256 bytes";
constexpr char kBadSelection[] = "a list of names does not fit into the message";
constexpr char kBadCount[] = "a lease has 1 to 1,024 descriptors";
constexpr char kBadRange[] = "its descriptors are not among those of a lease";
constexpr char kBadReason[] = "a reason has at most 64 bytes";
constexpr char kBadText[] = "a text has at most 2,048 bytes";

bool IsBatch(uint16_t batch) { return batch >= 1 && batch <= kMostAttachBatch; }

bool IsDescriptorRange(const AttachDescriptors& message) {
  return message.first >= 1 && message.count >= 1 && message.count <= kMostAttachBatch &&
         message.first < kMostAttachDescriptors && message.count <= kMostAttachDescriptors - message.first;
}

bool IsNoteKind(uint32_t kind) {
  return kind >= static_cast<uint32_t>(AttachNoteKind::kNewGeneration) &&
         kind <= static_cast<uint32_t>(AttachNoteKind::kDeviceLost);
}

absl::StatusOr<std::string> Encode(const AttachHello& message) {
  MessageWriter writer(MessageType::kHello);
  writer.Raw(message.token);
  writer.Require(IsBatch(message.batch), kBadBatch);
  writer.Integer(message.batch);
  writer.Text(message.label, kMostAttachLabelBytes, kBadLabel);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachRequest& message) {
  MessageWriter writer(MessageType::kRequest);
  writer.Require(IsBatch(message.batch), kBadBatch);
  writer.Integer(message.batch);
  writer.Integer(static_cast<uint16_t>(message.materialize ? kMaterializeFlag : 0));
  writer.Text(message.label, kMostAttachLabelBytes, kBadLabel);
  writer.Require(!message.model.empty(), kBadModel);
  writer.Text(message.model, kMostAttachNameBytes, kBadModel);
  for (const auto* texts : {&message.include, &message.exclude, &message.keys}) writer.Texts(*texts, kBadSelection);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachGranted& message) {
  MessageWriter writer(MessageType::kGrant);
  writer.Integer(message.generation);
  writer.Require(message.descriptors >= 1 && message.descriptors <= kMostAttachDescriptors, kBadCount);
  writer.Integer(message.descriptors);
  writer.Require(!message.lease.empty(), kBadLease);
  writer.Text(message.lease, kMostAttachNameBytes, kBadLease);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachNext& message) {
  MessageWriter writer(MessageType::kNext);
  writer.Require(message.descriptor >= 1 && message.descriptor <= kMostAttachDescriptors, kBadRange);
  writer.Integer(message.descriptor);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachDescriptors& message) {
  MessageWriter writer(MessageType::kDescriptors);
  writer.Require(IsDescriptorRange(message), kBadRange);
  writer.Integer(message.first);
  writer.Integer(message.count);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachNote& message) {
  MessageWriter writer(MessageType::kNote);
  writer.Integer(static_cast<uint32_t>(message.kind));
  writer.Integer(message.generation);
  return std::move(writer).Take();
}

absl::StatusOr<std::string> Encode(const AttachRelease&) { return MessageWriter(MessageType::kRelease).Take(); }

absl::StatusOr<std::string> Encode(const AttachError& message) {
  MessageWriter writer(MessageType::kError);
  writer.Integer(static_cast<uint32_t>(message.code));
  writer.Text(message.reason, kMostAttachReasonBytes, kBadReason);
  writer.Text(message.text, kMostAttachTextBytes, kBadText);
  return std::move(writer).Take();
}

absl::StatusOr<AttachMessage> DecodeHello(MessageReader& reader) {
  AttachHello message;
  const std::string_view token = reader.Bytes(message.token.size());
  if (reader.ok()) std::memcpy(message.token.data(), token.data(), token.size());
  message.batch = reader.Integer<uint16_t>();
  reader.Require(IsBatch(message.batch), kBadBatch);
  message.label = reader.Text(kMostAttachLabelBytes, kBadLabel);
  return reader.Finish(std::move(message));
}

absl::StatusOr<AttachMessage> DecodeRequest(MessageReader& reader) {
  AttachRequest message;
  message.batch = reader.Integer<uint16_t>();
  reader.Require(IsBatch(message.batch), kBadBatch);
  const auto flags = reader.Integer<uint16_t>();
  reader.Require((flags & ~kMaterializeFlag) == 0, "it has a flag that this version does not know");
  message.materialize = flags != 0;
  message.label = reader.Text(kMostAttachLabelBytes, kBadLabel);
  message.model = reader.Text(kMostAttachNameBytes, kBadModel);
  reader.Require(!message.model.empty(), kBadModel);
  for (auto* texts : {&message.include, &message.exclude, &message.keys}) *texts = reader.Texts(kBadSelection);
  return reader.Finish(std::move(message));
}

absl::StatusOr<AttachMessage> DecodeGranted(MessageReader& reader) {
  AttachGranted message;
  message.generation = reader.Integer<uint64_t>();
  message.descriptors = reader.Integer<uint32_t>();
  reader.Require(message.descriptors >= 1 && message.descriptors <= kMostAttachDescriptors, kBadCount);
  message.lease = reader.Text(kMostAttachNameBytes, kBadLease);
  reader.Require(!message.lease.empty(), kBadLease);
  return reader.Finish(std::move(message));
}

absl::StatusOr<AttachMessage> DecodeNext(MessageReader& reader) {
  const AttachNext message = {.descriptor = reader.Integer<uint32_t>()};
  reader.Require(message.descriptor >= 1 && message.descriptor <= kMostAttachDescriptors, kBadRange);
  return reader.Finish(message);
}

absl::StatusOr<AttachMessage> DecodeDescriptors(MessageReader& reader) {
  AttachDescriptors message;
  message.first = reader.Integer<uint32_t>();
  message.count = reader.Integer<uint32_t>();
  reader.Require(IsDescriptorRange(message), kBadRange);
  return reader.Finish(message);
}

absl::StatusOr<AttachMessage> DecodeNote(MessageReader& reader) {
  const auto kind = reader.Integer<uint32_t>();
  reader.Require(IsNoteKind(kind), "it has a kind of note that this version does not know");
  AttachNote message;
  if (reader.ok()) message.kind = static_cast<AttachNoteKind>(kind);
  message.generation = reader.Integer<uint64_t>();
  return reader.Finish(message);
}

absl::StatusOr<AttachMessage> DecodeError(MessageReader& reader) {
  AttachError message;
  const auto code = reader.Integer<uint32_t>();
  reader.Require(code >= 1 && code <= kLastStatusCode, "its code is none of an error");
  if (reader.ok()) message.code = static_cast<absl::StatusCode>(code);
  message.reason = reader.Text(kMostAttachReasonBytes, kBadReason);
  message.text = reader.Text(kMostAttachTextBytes, kBadText);
  return reader.Finish(std::move(message));
}

}  // namespace

absl::StatusOr<std::string> EncodeAttachMessage(const AttachMessage& message) {
  return std::visit([](const auto& one) { return Encode(one); }, message);
}

absl::StatusOr<AttachMessage> DecodeAttachMessage(std::string_view packet) {
  if (packet.size() > kAttachPacketBytes) return Malformed("it is longer than 4,096 bytes");
  MessageReader reader(packet);
  reader.Require(reader.Bytes(kMagic.size()) == kMagic, "it does not begin with KLA1: it is none of this protocol");
  const auto type = reader.Integer<uint16_t>();
  reader.Require(reader.Integer<uint16_t>() == kAttachVersion,
                 "its version is not 1: use a client of this server's version");
  if (!reader.ok()) return reader.problem();
  switch (static_cast<MessageType>(type)) {
    case MessageType::kHello:
      return DecodeHello(reader);
    case MessageType::kRequest:
      return DecodeRequest(reader);
    case MessageType::kGrant:
      return DecodeGranted(reader);
    case MessageType::kNext:
      return DecodeNext(reader);
    case MessageType::kDescriptors:
      return DecodeDescriptors(reader);
    case MessageType::kNote:
      return DecodeNote(reader);
    case MessageType::kRelease:
      return reader.Finish(AttachRelease());
    case MessageType::kError:
      return DecodeError(reader);
  }
  return Malformed("its type is none that this version knows");
}

AttachError MakeAttachError(absl::StatusCode code, std::string_view reason, std::string_view text) {
  return {.code = code,
          .reason = std::string(reason.substr(0, kMostAttachReasonBytes)),
          .text = std::string(text.substr(0, kMostAttachTextBytes))};
}

}  // namespace keyload
