#include "server/base/pool_turn.h"

#include <utility>

namespace keyload {
namespace {

thread_local PoolTurn* current_turn = nullptr;

}  // namespace

PoolTurn* PoolTurn::current() { return current_turn; }

PoolTurn::Scope::Scope(PoolTurn& turn) : before_(std::exchange(current_turn, &turn)) {}

PoolTurn::Scope::~Scope() { current_turn = before_; }

}  // namespace keyload
