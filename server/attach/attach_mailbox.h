#pragma once

#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/base/fd.h"
#include "server/base/mutex.h"

namespace keyload {

// What other threads want the thread of an AttachServer to do. Outlives the server where somebody still has an answer
// for it. Thread-safe.
class AttachMailbox {
 public:
  // True: it runs on the server's thread. False: the server is gone, and what was posted with it.
  using Post = absl::AnyInvocable<void(bool server_is_there)>;

  // `wake` is an eventfd.
  explicit AttachMailbox(UniqueFd wake) : wake_(std::move(wake)) {}

  // Becomes readable when something was put in.
  int wake() const { return wake_.get(); }
  // Runs `post` on this thread, with false, when the box is closed.
  void Put(Post post);
  std::vector<Post> Take();
  // Nothing is taken any more.
  std::vector<Post> Close();

 private:
  const UniqueFd wake_;
  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Post> posts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
