#include <sys/socket.h>

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/connection.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/method.h"
#include "tests/mock_client/rpc_caller.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

struct CallOptions {
  const MethodDescriptor* method = nullptr;
  nlohmann::json request;
  nlohmann::json expect;
  uint64_t times = 1;
  absl::Duration timeout;
  absl::Duration within;                                                    // repeat until the answer is as expected
  std::vector<std::pair<std::string, nlohmann::json::json_pointer>> saves;  // variable, where in the response
};

class Call final : public Step {
 public:
  explicit Call(CallOptions options) : options_(std::move(options)) {}

  absl::Status Run(Session& session) override {
    absl::Status status;
    for (uint64_t n = 0; status.ok() && n < options_.times; ++n) {
      session.variables["n"] = absl::StrCat(n);
      status = RunOnce(session);
    }
    session.variables.erase("n");
    return status;
  }

 private:
  absl::Status RunOnce(Session& session) const {
    nlohmann::json request = options_.request;
    nlohmann::json expect = options_.expect;
    if (absl::Status status = Substitute(session, request); !status.ok()) return status;
    if (absl::Status status = Substitute(session, expect); !status.ok()) return status;
    const std::unique_ptr<Message> message = NewMessage(options_.method->input_type());
    if (absl::Status status = ParseMessage(request, "request", *message); !status.ok()) return status;
    const auto* load = google::protobuf::DynamicCastToGenerated<v1::LoadModelRequest>(message.get());
    if (load != nullptr) session.models.insert(load->spec().model());
    return Poll(options_.within, [&] {
      const RpcResult result =
          CallMethod(session.channel, PathOf(*options_.method), message->SerializeAsString(), options_.timeout);
      const absl::StatusOr<nlohmann::json> actual = ResultJson(result, options_.method->output_type());
      if (!actual.ok()) return actual.status();
      if (absl::Status status = Match(expect, *actual, options_.method->name()); !status.ok()) return status;
      return Save(*actual, session);
    });
  }

  absl::Status Save(const nlohmann::json& actual, Session& session) const {
    for (const auto& [variable, pointer] : options_.saves) {
      if (!actual.contains(pointer)) {
        return absl::FailedPreconditionError(absl::StrCat("nothing to save at ", pointer.to_string()));
      }
      const nlohmann::json& value = actual.at(pointer);
      session.variables[variable] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    return absl::OkStatus();
  }

  const CallOptions options_;
};

// {"variable": ["path", "into", "the", "response"]}
absl::Status ParseSaves(const nlohmann::json* saves, const std::string& where, CallOptions& options) {
  if (saves == nullptr) return absl::OkStatus();
  for (const auto& [variable, path] : saves->items()) {
    nlohmann::json::json_pointer pointer;
    pointer /= std::string("response");
    bool well_formed = path.is_array() && !path.empty();
    for (size_t i = 0; well_formed && i < path.size(); ++i) {
      well_formed = path[i].is_string();
      if (well_formed) pointer /= path[i].get<std::string>();
    }
    if (!well_formed)
      return absl::InvalidArgumentError(absl::StrCat(where, ".save: ", variable, " is no list of names"));
    options.saves.emplace_back(variable, pointer);
  }
  return absl::OkStatus();
}

// Bytes that no generated code would send, to any method.
class RawCall final : public Step {
 public:
  RawCall(std::string method, std::string request, nlohmann::json expect)
      : method_(std::move(method)), request_(std::move(request)), expect_(std::move(expect)) {}

  absl::Status Run(Session& session) override {
    const RpcResult result = CallMethod(session.channel, method_, request_, absl::Seconds(10));
    nlohmann::json actual = nlohmann::json::object();
    if (!result.status.ok()) {
      actual["error"] = ErrorJson(result.status);
    } else {
      actual["hex"] = result.messages.empty() ? "" : absl::BytesToHexString(result.messages.front());
    }
    return Match(expect_, actual, method_);
  }

 private:
  const std::string method_;
  const std::string request_;
  const nlohmann::json expect_;
};

// Writes bytes to a connection of their own and waits until the daemon has closed it.
class RawBytes final : public Step {
 public:
  explicit RawBytes(std::string bytes) : bytes_(std::move(bytes)) {}

  absl::Status Run(Session& session) override {
    const absl::StatusOr<UniqueFd> socket = ConnectSocket(session.server.address);
    if (!socket.ok()) return socket.status();
    ::send(socket->get(), bytes_.data(), bytes_.size(), MSG_NOSIGNAL);  // the daemon may have hung up already
    ::shutdown(socket->get(), SHUT_WR);
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(socket->get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char answer[4096];
    ssize_t received = 0;
    do {
      received = ::recv(socket->get(), answer, sizeof answer, 0);
    } while (received > 0);
    const bool still_open = received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    return still_open ? absl::DeadlineExceededError("the daemon keeps the connection open") : absl::OkStatus();
  }

 private:
  const std::string bytes_;
};

}  // namespace

StepOr ParseCall(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  const std::string name = fields.RequiredText("method");
  const nlohmann::json* request = fields.Object("request");
  const nlohmann::json* expect = fields.Object("expect");
  CallOptions options{.method = FindMethod(name),
                      .request = request == nullptr ? nlohmann::json::object() : *request,
                      .expect = expect == nullptr ? nlohmann::json{{"response", nlohmann::json::object()}} : *expect,
                      .times = fields.Count("times", 1),
                      .timeout = absl::Milliseconds(fields.Count("timeout_ms", 30'000)),
                      .within = absl::Milliseconds(fields.Count("within_ms", 0)),
                      .saves = {}};
  const nlohmann::json* saves = fields.Object("save");
  if (options.method == nullptr || options.method->client_streaming()) {
    fields.Fail(absl::StrCat("no such call with one request: \"", name, "\""));
  }
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  const std::unique_ptr<Message> message = NewMessage(options.method->input_type());
  if (absl::Status status = ParseMessage(options.request, where, *message); !status.ok()) return status;
  if (absl::Status status = ValidateExpectation(options.expect, where); !status.ok()) return status;
  if (absl::Status status = ParseSaves(saves, where, options); !status.ok()) return status;
  return std::make_unique<Call>(std::move(options));
}

StepOr ParseRawCall(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string method = fields.RequiredText("method");
  std::string request = absl::HexStringToBytes(fields.Text("hex", ""));
  const nlohmann::json* expect = fields.Object("expect");
  if (expect == nullptr) fields.Fail("needs the object \"expect\"");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  if (absl::Status status = ValidateExpectation(*expect, where); !status.ok()) return status;
  return std::make_unique<RawCall>(std::move(method), std::move(request), *expect);
}

StepOr ParseRawBytes(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  const std::string text = fields.Text("text", "");
  const uint64_t random = fields.Count("random", 0);
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<RawBytes>(absl::StrCat(text, TensorContent("garbage", 0, random)));
}

}  // namespace keyload::mock
