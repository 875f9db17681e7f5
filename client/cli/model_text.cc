#include "client/cli/model_text.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/cli/device_text.h"
#include "client/cli/enum_words.h"
#include "client/cli/report_text.h"
#include "client/cli/table.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

std::string TimeText(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()), absl::LocalTimeZone());
}

uint64_t TensorBytes(const v1::Model& model) {
  uint64_t bytes = 0;
  for (const v1::DeviceUse& use : model.devices()) bytes += use.tensor_bytes();
  return bytes;
}

std::string DeviceNames(const v1::Model& model) {
  return absl::StrJoin(model.devices(), ",", [](std::string* out, const v1::DeviceUse& use) { *out += use.device(); });
}

std::string KeyRatio(const v1::KeyCounts& keys) { return absl::StrFormat("%d/%d", keys.loaded(), keys.expected()); }

}  // namespace

std::string ModelsText(const std::vector<v1::Model>& models) {
  if (models.empty()) return "no models\n";
  Table table({{"model"},
               {"state"},
               {"keys", Table::kRight},
               {"lazy", Table::kRight},
               {"missing", Table::kRight},
               {"size", Table::kRight},
               {"cached", Table::kRight},
               {"devices"},
               {"loaded at"}});
  for (const v1::Model& model : models) {
    table.AddRow({model.name(), EnumWord(model.state()), KeyRatio(model.keys()), std::to_string(model.keys().lazy()),
                  std::to_string(model.keys().missing()), FormatByteSize(TensorBytes(model)),
                  model.page_cache_bytes() == 0 ? "-" : FormatByteSize(model.page_cache_bytes()), DeviceNames(model),
                  TimeText(model.load_time())});
  }
  return table.Render();
}

std::string ModelText(const v1::Model& model) {
  std::string out =
      absl::StrFormat("%s: %s, generation %d\n", model.name(), EnumWord(model.state()), model.generation());
  out += absl::StrFormat("source    %s\n", model.source().path());
  if (!model.architecture().empty()) out += absl::StrFormat("class     %s\n", model.architecture());
  out += absl::StrFormat("keys      %s loaded, %d lazy, %d missing, %d unexpected, %d mismatched\n",
                         KeyRatio(model.keys()), model.keys().lazy(), model.keys().missing(), model.keys().unexpected(),
                         model.keys().mismatched());
  if (model.page_cache_bytes() > 0) {  // 0 is also what a server says that did not measure it
    out += absl::StrFormat("cached    %s of its files in the page cache\n", FormatByteSize(model.page_cache_bytes()));
  }
  out += absl::StrFormat("loaded    %s, last used %s\n", TimeText(model.load_time()), TimeText(model.last_use_time()));
  if (model.leases() > 0) out += absl::StrFormat("leases    %d\n", model.leases());
  return out + DeviceUseText(model.devices()) + DeviceMapText(model.device_map());
}

std::string KeysText(const std::vector<v1::KeyInfo>& keys) {
  if (keys.empty()) return "no keys\n";
  Table table({{"key"}, {"state"}, {"dtype"}, {"shape"}, {"size", Table::kRight}, {"device"}, {"shard"}, {"tied to"}});
  for (const v1::KeyInfo& key : keys) {
    table.AddRow({key.key(), EnumWord(key.state()), key.dtype(), ShapeText(key.shape()), FormatByteSize(key.bytes()),
                  key.device(), key.shard(), key.tied_to()});
  }
  return table.Render();
}

std::string ServerInfoText(const v1::GetServerInfoResponse& info) {
  std::string out = absl::StrFormat("keyloadd %s, since %s%s\n", info.version(), TimeText(info.start_time()),
                                    info.draining() ? ", draining" : "");
  out += "capabilities  " + absl::StrJoin(info.capabilities(), ", ") + "\n";
  out += "model roots   " + (info.roots_size() == 0 ? "none" : absl::StrJoin(info.roots(), ", ")) + "\n";
  for (const v1::StuckStorage& stuck : info.stuck_storage()) {
    out += absl::StrFormat("stuck mount   %s: %d operations, the oldest since %d s\n", stuck.mount(),
                           stuck.operations(), stuck.longest().seconds());
  }
  Table limits({{"limit"}, {"value", Table::kRight}});
  std::map<std::string, uint64_t> sorted(info.limits().begin(), info.limits().end());
  for (const auto& [name, value] : sorted) limits.AddRow({name, std::to_string(value)});
  return limits.empty() ? out : out + "\n" + limits.Render();
}

std::string LoadsText(const std::vector<v1::LoadStatus>& loads) {
  if (loads.empty()) return "no loads\n";
  Table table({{"load"}, {"model"}, {"state"}});
  for (const v1::LoadStatus& load : loads) {
    std::string state = load.progress().phase();
    if (load.has_report()) state = EnumWord(load.report().outcome());
    if (load.has_error()) state = load.error().reason();
    table.AddRow({load.load(), load.model(), state});
  }
  return table.Render();
}

std::string LeasesText(const v1::ListLeasesResponse& leases) {
  if (leases.leases_size() == 0) return "no leases\n";
  Table table({{"lease"}, {"model"}, {"holder"}, {"pinned", Table::kRight}, {"expires"}});
  for (const v1::Lease& lease : leases.leases()) {
    table.AddRow({lease.lease(), lease.model(), lease.holder(), FormatByteSize(lease.pinned_bytes()),
                  TimeText(lease.expire_time())});
  }
  return table.Render();
}

}  // namespace keyload::cli
