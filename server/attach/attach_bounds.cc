#include "server/attach/attach_bounds.h"

#include <string_view>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

void Move(AttachBounds::Use& sum, const AttachBounds::Use& before, const AttachBounds::Use& after) {
  sum.connections += after.connections - before.connections;  // modulo 2^32, and so right
  sum.pending += after.pending - before.pending;
  sum.in_flight += after.in_flight - before.in_flight;
  sum.unread += after.unread - before.unread;
}

absl::Status Full(std::string_view what, uint32_t most) {
  return MakeError(Reason::kLoadQueueFull, StrCat(what, ", at most ", most, "; end some, or try again later"));
}

}  // namespace

void AttachBounds::Change(uint32_t user, const Use& before, const Use& after) {
  if (before == after) return;
  Move(total_, before, after);
  Use& of_user = users_[user];
  Move(of_user, before, after);
  if (of_user == Use()) users_.erase(user);
}

absl::Status AttachBounds::CheckNew(uint32_t user) const {
  const auto found = users_.find(user);
  const Use of_user = found == users_.end() ? Use() : found->second;
  if (of_user.connections >= most_connections_of_user())
    return Full("too many attach connections of this user", most_connections_of_user());
  if (of_user.pending >= most_pending_of_user())
    return Full("too many attach connections of this user have no lease yet", most_pending_of_user());
  if (of_user.unread >= most_unread_of_user())
    return Full("clients of this user leave descriptors unread", most_unread_of_user());
  if (total_.connections >= most_connections()) return Full("too many attach connections", most_connections());
  if (total_.pending >= most_pending()) return Full("too many attach connections have no lease yet", most_pending());
  if (total_.unread >= most_unread()) return Full("clients leave descriptors unread", most_unread());
  return absl::OkStatus();
}

}  // namespace keyload
