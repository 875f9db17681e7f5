#pragma once

#include <memory>
#include <string>

#include "server/io/shard_reader.h"
#include "server/io/storage_threads.h"

namespace keyload {

// `reader`, each read of which is noted as an Operation of the mount that the file `resolved` is on.
std::unique_ptr<ShardReader> WatchReads(std::unique_ptr<ShardReader> reader, StorageThreads& storage,
                                        const std::string& resolved);

}  // namespace keyload
