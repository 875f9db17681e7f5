#include <signal.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/method.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

absl::Status NoCall(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat("no step has opened the call ", name));
}

// Starts a call and goes on to the next step.
class Open final : public Step {
 public:
  Open(std::string name, const MethodDescriptor& method, std::optional<nlohmann::json> request,
       const HeldCall::Options& options)
      : name_(std::move(name)), method_(method), request_(std::move(request)), options_(options) {}

  absl::Status Run(Session& session) override {
    HeldCall::Options options = options_;
    if (request_.has_value()) {
      nlohmann::json request = *request_;
      if (absl::Status status = Substitute(session, request); !status.ok()) return status;
      const std::unique_ptr<Message> message = NewMessage(method_.input_type());
      if (absl::Status status = ParseMessage(request, "request", *message); !status.ok()) return status;
      NoteModel(*message, session);
      options.request = message->SerializeAsString();
    }
    session.held_calls[name_] = {.method = &method_, .call = std::make_shared<HeldCall>(session.channel, options)};
    return absl::OkStatus();
  }

 private:
  static void NoteModel(const Message& message, Session& session) {
    const auto* load = google::protobuf::DynamicCastToGenerated<v1::LoadModelRequest>(&message);
    if (load != nullptr) session.models.insert(load->spec().model());
    const auto* start = google::protobuf::DynamicCastToGenerated<v1::LoadRequest>(&message);
    if (start != nullptr && start->has_start()) session.models.insert(start->start().model());
  }

  const std::string name_;
  const MethodDescriptor& method_;
  const std::optional<nlohmann::json> request_;
  const HeldCall::Options options_;  // but for the request
};

// Waits for a message of an open call, or for its end.
class Await final : public Step {
 public:
  Await(std::string name, nlohmann::json message, nlohmann::json end, absl::Duration within)
      : name_(std::move(name)), message_(std::move(message)), end_(std::move(end)), within_(within) {}

  absl::Status Run(Session& session) override {
    const auto held = session.held_calls.find(name_);
    if (held == session.held_calls.end()) return NoCall(name_);
    nlohmann::json expect = message_.is_null() ? end_ : message_;
    if (absl::Status status = Substitute(session, expect); !status.ok()) return status;
    if (absl::Status status =
            Poll(within_, [&] { return message_.is_null() ? End(held->second, expect) : Has(held->second, expect); });
        !status.ok()) {
      return status;
    }
    if (message_.is_null() && session.signal_time.has_value()) {
      std::cout << absl::StrFormat("  %s ended %.3f s after the signal\n", name_,
                                   absl::ToDoubleSeconds(*held->second.call->received().end - *session.signal_time));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Has(const HeldMethod& held, const nlohmann::json& expect) const {
    const HeldCall::Received received = held.call->received();
    absl::Status last = absl::DeadlineExceededError(absl::StrCat(name_, ": no message has come"));
    for (const std::string& bytes : received.result.messages) {
      const absl::StatusOr<nlohmann::json> message = MessageJson(bytes, held.method->output_type());
      if (!message.ok()) return message.status();
      last = Match(expect, *message, name_);
      if (last.ok()) return last;
    }
    return last;
  }

  absl::Status End(const HeldMethod& held, const nlohmann::json& expect) const {
    const HeldCall::Received received = held.call->received();
    if (!received.end.has_value()) return absl::DeadlineExceededError(absl::StrCat(name_, " has not ended"));
    const absl::StatusOr<nlohmann::json> result = ResultJson(received.result, held.method->output_type());
    return result.ok() ? Match(expect, *result, name_) : result.status();
  }

  const std::string name_;
  const nlohmann::json message_;  // null, or what one of the messages is
  const nlohmann::json end_;      // null, or what the call ends with
  const absl::Duration within_;
};

// Gives up an open call, as a client that goes away does.
class Drop final : public Step {
 public:
  explicit Drop(std::string name) : name_(std::move(name)) {}
  absl::Status Run(Session& session) override {
    return session.held_calls.erase(name_) == 1 ? absl::OkStatus() : NoCall(name_);
  }

 private:
  const std::string name_;
};

class Signal final : public Step {
 public:
  explicit Signal(int number) : number_(number) {}

  absl::Status Run(Session& session) override {
    if (session.daemon_pid <= 0) return absl::InvalidArgumentError("needs --daemon-pid");
    if (!session.signal_time.has_value()) session.signal_time = absl::Now();
    if (::kill(session.daemon_pid, number_) != 0) {
      return absl::UnavailableError(absl::StrCat("kill ", session.daemon_pid, ": ", std::strerror(errno)));
    }
    return absl::OkStatus();
  }

 private:
  const int number_;
};

}  // namespace

StepOr ParseOpen(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string name = fields.RequiredText("name");
  const std::string method_name = fields.RequiredText("method");
  const MethodDescriptor* method = FindMethod(method_name);
  const nlohmann::json* given = fields.Object("request");
  const uint64_t timeout = fields.Count("timeout_ms", 60'000);
  const uint64_t daemon_timeout = fields.Count("daemon_timeout_ms", 0);
  if (method == nullptr) fields.Fail(absl::StrCat("no such call: \"", method_name, "\""));
  if (absl::Status status = fields.Finish(); !status.ok() || method == nullptr) return status;
  std::optional<nlohmann::json> request;
  if (given != nullptr) {
    request = *given;
  } else if (!method->client_streaming()) {
    request = nlohmann::json::object();
  }
  const std::unique_ptr<Message> message = NewMessage(method->input_type());
  if (request.has_value()) {
    if (absl::Status status = ParseMessage(*request, where, *message); !status.ok()) return status;
  }
  const HeldCall::Options options{.method = PathOf(*method),
                                  .request = std::nullopt,
                                  .stays_open = method->client_streaming(),
                                  .timeout = absl::Milliseconds(daemon_timeout > 0 ? daemon_timeout : timeout),
                                  .daemon_keeps_time = daemon_timeout > 0};
  return std::make_unique<Open>(std::move(name), *method, std::move(request), options);
}

StepOr ParseAwait(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string name = fields.RequiredText("name");
  const nlohmann::json* message = fields.Object("message");
  const nlohmann::json* end = fields.Object("end");
  const absl::Duration within = absl::Milliseconds(fields.Count("within_ms", 30'000));
  if ((message == nullptr) == (end == nullptr)) fields.Fail("needs one of \"message\" and \"end\"");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  if (absl::Status status = ValidateExpectation(message == nullptr ? *end : *message, where); !status.ok()) {
    return status;
  }
  return std::make_unique<Await>(std::move(name), message == nullptr ? nlohmann::json() : *message,
                                 end == nullptr ? nlohmann::json() : *end, within);
}

StepOr ParseDrop(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string name = fields.RequiredText("name");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<Drop>(std::move(name));
}

StepOr ParseSignal(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  const std::string name = fields.RequiredText("signal");
  if (name != "TERM") fields.Fail(absl::StrCat("\"signal\" is TERM, not \"", name, "\""));
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<Signal>(SIGTERM);
}

}  // namespace keyload::mock
