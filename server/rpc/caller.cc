#include "server/rpc/caller.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/rpc/authorize.h"

namespace keyload {
namespace {

constexpr char kTraceparent[] = "traceparent";
constexpr size_t kTraceparentLength = 55;  // 00-<32>-<16>-<2>

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

// Nothing if it was sent twice: then nobody knows which one counts.
std::string TraceparentOf(const grpc::CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kTraceparent);
  if (first == last || std::next(first) != last) return "";
  return ParseTraceparent({first->second.data(), first->second.size()});
}

}  // namespace

std::string ParseTraceparent(std::string_view text) {
  if (text.size() < kTraceparentLength) return "";
  const std::string_view version = text.substr(0, 2);
  const std::string_view trace = text.substr(3, 32);
  const std::string_view parent = text.substr(36, 16);
  const std::string_view flags = text.substr(53, 2);
  if (text[2] != '-' || text[35] != '-' || text[52] != '-') return "";
  if (!IsLowerHex(version) || !IsLowerHex(trace) || !IsLowerHex(parent) || !IsLowerHex(flags)) return "";
  if (version == "ff" || IsZero(trace) || IsZero(parent)) return "";
  const std::string_view rest = text.substr(kTraceparentLength);
  if (!rest.empty() && (version == "00" || rest.front() != '-')) return "";
  return std::string(text.substr(0, kTraceparentLength));
}

std::string PeerOf(const Caller& caller) { return caller.share(); }

std::shared_ptr<const Caller> CallerOf(const AccessControl* access, const grpc::CallbackServerContext& context) {
  Caller caller = {.name = "", .peer = context.peer(), .traceparent = TraceparentOf(context)};
  if (access != nullptr) {
    if (const absl::StatusOr<Principal> principal = Identify(*access, context); principal.ok()) {
      caller.name = principal->name;
    }
  }
  return std::make_shared<const Caller>(std::move(caller));
}

}  // namespace keyload
