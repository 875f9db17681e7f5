#include "server/attach/attach_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <future>
#include <optional>
#include <set>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "attach/attach_socket.h"
#include "server/attach/attach_bounds.h"
#include "server/attach/attach_connection.h"
#include "server/attach/attach_mailbox.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using Clock = AttachConnection::Clock;
using State = AttachConnection::State;

constexpr uint64_t kListeningId = 0;
constexpr uint64_t kWakeId = 1;
constexpr std::chrono::milliseconds kRetry(50);  // when the kernel takes no descriptors, or has none for a connection
constexpr int kMostAccepted = 16;                // at once, before those that are there get on

}  // namespace

// The thread. Everything but `mailbox_` and `stop_` is its own.
class AttachServer::Loop {
 public:
  Loop(UniqueFd listening, UniqueFd epoll, UniqueFd wake, AttachSource& source, const CurrentPeerRules& rules,
       const Options& options)
      : listening_(std::move(listening)),
        epoll_(std::move(epoll)),
        mailbox_(std::make_shared<AttachMailbox>(std::move(wake))),
        source_(source),
        bounds_(options.descriptors),
        terms_{.source = source,
               .rules = rules,
               .acknowledge = options.acknowledge,
               .room = options.room,
               .most_batch = std::min<uint32_t>(bounds_.most_batch(), kMostAttachBatch)} {}

  absl::Status Start() {
    if (!Watch(EPOLL_CTL_ADD, listening_.get(), EPOLLIN, kListeningId) ||
        !Watch(EPOLL_CTL_ADD, mailbox_->wake(), EPOLLIN, kWakeId))
      return absl::ResourceExhaustedError(StrCat("epoll_ctl: ", std::strerror(errno)));
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  ~Loop() {
    if (!thread_.joinable()) return;
    Put([this] { stopped_ = true; });
    thread_.join();
  }

  // Runs `work` on the thread; never, once that has ended.
  void Put(absl::AnyInvocable<void()> work) {
    mailbox_->Put([work = std::move(work)](bool there) mutable {
      if (there) work();
    });
  }

  void Note(const std::string& lease, AttachNoteKind kind, uint64_t generation) {
    Entry* const entry = FindLease(lease);
    if (entry == nullptr || entry->connection.state() != State::kHeld) return;
    Change(*entry, [&] { entry->connection.AddNote(kind, generation); });
  }

  void NoteAll(AttachNoteKind kind) {
    for (const std::string& lease : LeaseNames()) Note(lease, kind, 0);
  }

  void End(const std::string& lease, const absl::Status& why) {
    Entry* const entry = FindLease(lease);
    if (entry == nullptr) return;
    Change(*entry, [&] {
      if (entry->connection.state() == State::kHeld)
        entry->connection.AddNote(AttachNoteKind::kLeaseEnded, entry->connection.lease()->generation());
      entry->connection.Refuse(AttachEnd::kEndedByServer, why);
    });
  }

  Counts Count() const {
    return {.connections = bounds_.total().connections,
            .leases = static_cast<uint32_t>(leases_.size()),
            .descriptors_in_flight = bounds_.total().in_flight,
            .descriptors_unread = bounds_.total().unread};
  }

 private:
  struct Entry {
    Entry(uint64_t number, UniqueFd socket, PeerProcess process, const AttachConnection::Terms& terms)
        : id(number), user(process.uid), connection(std::move(socket), std::move(process), terms) {}

    const uint64_t id;
    const uint32_t user;
    AttachConnection connection;
    AttachBounds::Use use;                      // as it is counted
    std::optional<Clock::time_point> deadline;  // as it stands in `deadlines_`
    uint32_t events = 0;                        // as epoll has them
    std::string lease;                          // as it stands in `leases_`
    bool queued = false;                        // waits for room
  };

  void Run() {
    while (!stopped_) {
      std::array<epoll_event, 64> events;
      const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), WaitMs());
      for (int i = 0; i < count && !stopped_; ++i) OnEvent(events[static_cast<size_t>(i)]);
      SendWhileThereIsRoom();  // nobody who can be served is given up
      ExpireDeadlines();
      SendWhileThereIsRoom();  // who was given up makes room
    }
    connections_.clear();
    for (AttachMailbox::Post& post : mailbox_->Close()) post(false);
  }

  int WaitMs() const {
    std::optional<Clock::time_point> next = retry_;
    if (!deadlines_.empty()) next = std::min(next.value_or(Clock::time_point::max()), deadlines_.begin()->first);
    if (!next) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
  }

  void OnEvent(const epoll_event& event) {
    if (event.data.u64 == kWakeId) {
      for (AttachMailbox::Post& post : mailbox_->Take()) NoThrow([&] { post(true); }).IgnoreError();
    } else if (event.data.u64 == kListeningId) {
      for (int i = 0; i < kMostAccepted && Accept(); ++i) {
      }
    } else if (const auto found = connections_.find(event.data.u64); found != connections_.end()) {
      Entry& entry = *found->second;
      Change(entry, [&] { OnConnectionEvent(entry, event.events); });
    }
  }

  void OnConnectionEvent(Entry& entry, uint32_t events) {
    if (entry.connection.state() == State::kUnread) {
      if ((events & (EPOLLHUP | EPOLLERR)) != 0) entry.connection.OnGone();
      return;
    }
    if ((events & EPOLLOUT) != 0) entry.connection.OnWritable();
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0) return;
    entry.connection.OnReadable([&](AttachRequest request, std::stop_token stop) {
      source_.Acquire(std::move(request), entry.connection.peer(), std::move(stop), Answer(entry.id));
    });
  }

  // What gives the source's answer to the connection, or ends the lease when that is gone.
  AttachSource::Done Answer(uint64_t id) {
    return [mailbox = mailbox_, this, id](absl::StatusOr<std::unique_ptr<AttachLease>> lease) mutable {
      mailbox->Put([this, id, lease = std::move(lease)](bool there) mutable {
        if (there) {
          OnAnswer(id, std::move(lease));
        } else if (lease.ok()) {  // nothing of the server may be used
          (*lease)->Ended(AttachEnd::kServerStopped);
        }
      });
    };
  }

  void OnAnswer(uint64_t id, absl::StatusOr<std::unique_ptr<AttachLease>> lease) {
    if (const auto found = connections_.find(id); found != connections_.end()) {
      Entry& entry = *found->second;
      Change(entry, [&] { entry.connection.OnAnswer(std::move(lease)); });
    } else if (lease.ok()) {
      (*lease)->Ended(AttachEnd::kClosed);
    }
  }

  // Whatever happens to a connection: an exception ends that one, and then everything that depends on it is as it is
  // now.
  template <typename What>
  void Change(Entry& entry, What&& what) {
    const uint64_t id = entry.id;
    const absl::Status status = NoThrow([&] {
      what();
      Settle(entry);
    });
    if (!status.ok()) Remove(id);
  }

  void Settle(Entry& entry) {
    AttachConnection& connection = entry.connection;
    if (connection.state() == State::kClosed) return Remove(entry.id);
    const bool unread = connection.state() == State::kUnread;
    const bool pending = connection.state() == State::kGreeting || connection.state() == State::kAsking;
    Count(entry, {.connections = 1,
                  .pending = pending ? 1u : 0u,
                  .in_flight = unread ? 0 : connection.in_flight(),
                  .unread = unread ? connection.in_flight() : 0});
    SetDeadline(entry, connection.deadline());
    SetLease(entry);
    if (connection.state() == State::kSending && !entry.queued) {
      waiting_.push_back(entry.id);
      entry.queued = true;
    }
    // One that was given up is only asked whether its other end is gone, which epoll always tells.
    uint32_t events = 0;
    if (!unread) events = EPOLLIN | EPOLLRDHUP;
    if (connection.wants_to_write()) events |= EPOLLOUT;
    if (events != entry.events && Watch(EPOLL_CTL_MOD, connection.socket(), events, entry.id)) entry.events = events;
  }

  void Count(Entry& entry, const AttachBounds::Use& use) {
    bounds_.Change(entry.user, entry.use, use);
    entry.use = use;
  }

  void SetDeadline(Entry& entry, std::optional<Clock::time_point> deadline) {
    if (entry.deadline == deadline) return;
    if (entry.deadline) deadlines_.erase({*entry.deadline, entry.id});
    if (deadline) deadlines_.emplace(*deadline, entry.id);
    entry.deadline = deadline;
  }

  void SetLease(Entry& entry) {
    const AttachLease* const lease = entry.connection.lease();
    const std::string name(lease == nullptr ? std::string_view() : lease->name());
    if (name == entry.lease) return;
    if (!entry.lease.empty()) leases_.erase(entry.lease);
    if (!name.empty()) leases_[name] = entry.id;
    entry.lease = name;
  }

  void Remove(uint64_t id) {
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    Entry& entry = *found->second;
    SetDeadline(entry, std::nullopt);
    if (!entry.lease.empty()) leases_.erase(entry.lease);
    Count(entry, {});
    connections_.erase(found);
  }

  // False: nobody waits, or there is no descriptor for who does.
  bool Accept() {
    UniqueFd socket(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) PauseAccepting();
      return false;
    }
    NoThrow([&] { Add(std::move(socket)); }).IgnoreError();
    return true;
  }

  void Add(UniqueFd socket) {
    absl::StatusOr<PeerProcess> process = ReadPeer(socket.get());
    if (!process.ok()) return;
    const uint32_t user = process->uid;
    const uint64_t id = next_id_++;
    auto entry = std::make_unique<Entry>(id, std::move(socket), *std::move(process), terms_);
    if (const absl::Status full = bounds_.CheckNew(user); !full.ok()) {
      entry->connection.Refuse(AttachEnd::kNoRoom, full);
      return;
    }
    if (!Watch(EPOLL_CTL_ADD, entry->connection.socket(), 0, id)) return;
    Entry& added = *connections_.emplace(id, std::move(entry)).first->second;
    Change(added, [] {});
  }

  void PauseAccepting() {
    Watch(EPOLL_CTL_MOD, listening_.get(), 0, kListeningId);
    accepting_ = false;
    retry_ = Clock::now() + kRetry;
  }

  void ExpireDeadlines() {
    const Clock::time_point now = Clock::now();
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      Entry& entry = *connections_.at(deadlines_.begin()->second);
      Change(entry, [&] { entry.connection.Expire(now); });
    }
    if (!retry_ || *retry_ > now) return;
    retry_.reset();
    if (!accepting_) accepting_ = Watch(EPOLL_CTL_MOD, listening_.get(), EPOLLIN, kListeningId);
  }

  // In the order in which they came to wait.
  void SendWhileThereIsRoom() {
    while (!waiting_.empty() && bounds_.room() > 0) {
      const auto found = connections_.find(waiting_.front());
      bool sent = true;
      if (found != connections_.end() && found->second->connection.state() == State::kSending) {
        Entry& entry = *found->second;
        entry.queued = false;
        const uint32_t room = bounds_.room();
        Change(entry, [&] {
          sent = entry.connection.Send(room);
          entry.queued = !sent;  // it stays in its place
        });
      } else if (found != connections_.end()) {
        found->second->queued = false;
      }
      if (!sent) {
        retry_ = Clock::now() + kRetry;
        return;
      }
      waiting_.pop_front();
    }
  }

  Entry* FindLease(const std::string& lease) {
    const auto found = leases_.find(lease);
    return found == leases_.end() ? nullptr : connections_.at(found->second).get();
  }

  std::vector<std::string> LeaseNames() const {
    std::vector<std::string> names;
    names.reserve(leases_.size());
    for (const auto& [name, id] : leases_) names.push_back(name);
    return names;
  }

  bool Watch(int operation, int descriptor, uint32_t events, uint64_t id) const {
    epoll_event event = {.events = events, .data = {.u64 = id}};
    return epoll_ctl(epoll_.get(), operation, descriptor, &event) == 0;
  }

  const UniqueFd listening_;
  const UniqueFd epoll_;
  const std::shared_ptr<AttachMailbox> mailbox_;
  AttachSource& source_;
  AttachBounds bounds_;
  const AttachConnection::Terms terms_;

  bool stopped_ = false;
  bool accepting_ = true;
  uint64_t next_id_ = kWakeId + 1;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Entry>> connections_;
  absl::flat_hash_map<std::string, uint64_t> leases_;  // connections by the names of their leases
  std::set<std::pair<Clock::time_point, uint64_t>> deadlines_;
  std::deque<uint64_t> waiting_;            // for room; may name connections that are gone
  std::optional<Clock::time_point> retry_;  // of what the kernel refused
  std::thread thread_;
};

AttachServer::AttachServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
AttachServer::~AttachServer() = default;

absl::StatusOr<std::unique_ptr<AttachServer>> AttachServer::Start(UniqueFd listening, AttachSource& source,
                                                                  const CurrentPeerRules& rules,
                                                                  const Options& options) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll || !wake) return absl::ResourceExhaustedError(StrCat("epoll: ", std::strerror(errno)));
  auto loop = std::make_unique<Loop>(std::move(listening), std::move(epoll), std::move(wake), source, rules, options);
  if (absl::Status status = loop->Start(); !status.ok()) return status;
  return std::unique_ptr<AttachServer>(new AttachServer(std::move(loop)));
}

void AttachServer::Note(std::string lease, AttachNoteKind kind, uint64_t generation) {
  loop_->Put([loop = loop_.get(), lease = std::move(lease), kind, generation] { loop->Note(lease, kind, generation); });
}

void AttachServer::NoteAll(AttachNoteKind kind) {
  loop_->Put([loop = loop_.get(), kind] { loop->NoteAll(kind); });
}

void AttachServer::End(std::string lease, absl::Status why) {
  loop_->Put([loop = loop_.get(), lease = std::move(lease), why = std::move(why)] { loop->End(lease, why); });
}

AttachServer::Counts AttachServer::Count() {
  std::promise<Counts> counts;
  std::future<Counts> counted = counts.get_future();
  loop_->Put([loop = loop_.get(), &counts] { counts.set_value(loop->Count()); });
  return counted.get();
}

}  // namespace keyload
