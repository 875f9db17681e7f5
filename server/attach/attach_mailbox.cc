#include "server/attach/attach_mailbox.h"

#include <sys/eventfd.h>

namespace keyload {

void AttachMailbox::Put(Post post) {
  {
    MutexLock lock(mutex_);
    if (!closed_) {
      posts_.push_back(std::move(post));
      eventfd_write(wake_.get(), 1);
      return;
    }
  }
  post(false);
}

std::vector<AttachMailbox::Post> AttachMailbox::Take() {
  eventfd_t count = 0;
  MutexLock lock(mutex_);
  eventfd_read(wake_.get(), &count);
  return std::exchange(posts_, {});
}

std::vector<AttachMailbox::Post> AttachMailbox::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  return std::exchange(posts_, {});
}

}  // namespace keyload
