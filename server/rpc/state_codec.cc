#include "server/rpc/state_codec.h"

#include "keyload/state/v1/state.pb.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/convert_device_map.h"
#include "server/rpc/convert_manifest.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/parse_report.h"

namespace keyload {
namespace {

template <typename Message>
absl::StatusOr<Message> Parse(std::string_view bytes) {
  Message message;
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return message;
  return MakeError(Reason::kInternal, StrCat("no ", Message::descriptor()->full_name()));
}

class Codec : public StateCodec {
 public:
  std::string WriteModel(const LoadSpec& spec, uint64_t generation, bool extends) const override {
    state::v1::KeptModel model;
    model.set_generation(generation);
    state::v1::KeptRequest& request = *model.add_requests();
    request.set_fingerprint(spec.fingerprint);
    v1::LoadSpec& message = *request.mutable_spec();
    message.ParseFromString(spec.request);
    v1::ExpectedKeys& expected = *message.mutable_expected();
    if (extends) {
      message.clear_expected();
    } else if (spec.expected.manifest != nullptr && !expected.has_manifest()) {
      expected.clear_manifest_digest();
      *expected.mutable_manifest() = keyload::ToProto(*spec.expected.manifest);
    }
    message.mutable_select()->clear_key_list_digest();
    message.mutable_select()->mutable_keys()->Assign(spec.select.keys.begin(), spec.select.keys.end());
    if (spec.select.list != nullptr) {
      for (size_t i = 0; i < spec.select.list->size(); ++i) {
        message.mutable_select()->add_keys(std::string((*spec.select.list)[i]));
      }
    }
    return model.SerializeAsString();
  }

  absl::StatusOr<KeptModel> ReadModel(std::string_view bytes) const override {
    KEYLOAD_ASSIGN_OR_RETURN(const state::v1::KeptModel message, Parse<state::v1::KeptModel>(bytes));
    if (message.requests_size() == 0) return MakeError(Reason::kInternal, "a model without a request");
    KeptModel model = {.name = "", .generation = message.generation(), .requests = {}};
    for (const state::v1::KeptRequest& request : message.requests()) {
      KEYLOAD_ASSIGN_OR_RETURN(LoadSpec spec, keyload::FromProto(request.spec()));
      spec.fingerprint = request.fingerprint();
      if (!model.requests.empty()) spec.expected = model.requests.front().expected;
      model.requests.push_back(std::move(spec));
    }
    return model;
  }

  std::string WriteLoad(const KeptLoad& load) const override {
    state::v1::KeptLoad message;
    v1::LoadStatus& status = *message.mutable_status();
    status.set_load(load.identity.load);
    status.set_model(load.identity.model);
    status.set_done(true);
    if (load.result.ok()) {
      *status.mutable_report() = keyload::ToProto(*load.result);
    } else {
      *status.mutable_error() = ToLoadError(load.result.status());
    }
    for (const std::string& id : load.request_ids) message.add_request_ids(id);
    message.set_digest(load.identity.digest);
    return message.SerializeAsString();
  }

  absl::StatusOr<KeptLoad> ReadLoad(std::string_view bytes) const override {
    KEYLOAD_ASSIGN_OR_RETURN(const state::v1::KeptLoad message, Parse<state::v1::KeptLoad>(bytes));
    const v1::LoadStatus& status = message.status();
    KeptLoad load = {.identity = {.load = status.load(), .model = status.model(), .digest = message.digest()},
                     .request_ids = {message.request_ids().begin(), message.request_ids().end()},
                     .result = keyload::FromProto(status.error())};
    if (status.has_report()) {
      KEYLOAD_ASSIGN_OR_RETURN(load.result, keyload::FromProto(status.report()));
    }
    return load;
  }

  std::string WriteMap(const NamedDeviceMap& map) const override { return keyload::ToProto(map).SerializeAsString(); }

  absl::StatusOr<NamedDeviceMap> ReadMap(std::string_view bytes) const override {
    KEYLOAD_ASSIGN_OR_RETURN(const v1::NamedDeviceMap message, Parse<v1::NamedDeviceMap>(bytes));
    return keyload::FromProto(message);
  }
};

}  // namespace

const StateCodec& ProtoStateCodec() {
  static const Codec codec;
  return codec;
}

}  // namespace keyload
