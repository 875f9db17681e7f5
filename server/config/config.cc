#include "server/config/config.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/config/address.h"
#include "server/config/config_file.h"
#include "server/config/settings.h"

namespace keyload {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr std::string_view kConfigFlag = "--config";
constexpr std::string_view kConfigVariable = "KEYLOADD_CONFIG";

struct Flags {
  std::map<std::string_view, std::vector<std::string>> values;  // by Setting::flag, only those that were given
  std::optional<std::string> config_file;
  bool check_config = false;
  std::optional<std::string> text;  // --help, --version
};

absl::Status BadSetting(std::string_view subject, std::string_view why) {
  return MakeError(Reason::kBadRequest, absl::StrFormat("%s: %s", subject, why), {{"setting", std::string(subject)}});
}

std::string ReloadedFlags() {
  std::string flags;
  for (const Setting& setting : AllSettings()) {
    if (setting.adopt != nullptr) absl::StrAppendFormat(&flags, "%s%s", flags.empty() ? "" : ", ", setting.flag);
  }
  return flags;
}

std::string HelpText(const CLI::App& app) {
  return absl::StrCat(
      app.help(),
      "\nEvery setting can also come from the environment (--listen: KEYLOADD_LISTEN) or from the file that "
      "--config or\nKEYLOADD_CONFIG names; a flag wins over the environment, the environment over the file.\n"
      "On SIGHUP they are read again; these change at once, the others at the next start:\n",
      ReloadedFlags(), "\n");
}

// CLI11 reports by exceptions; none leaves this function.
absl::StatusOr<Flags> ParseFlags(const std::vector<std::string>& args) {
  CLI::App app("keyloadd keeps the weights of models on the devices of this node and serves them over gRPC.",
               "keyloadd");
  app.set_help_flag("-h,--help", "Print this help");
  bool show_version = false;
  app.add_flag("--version", show_version, "Print the version");
  Flags flags;
  std::string config_file;
  const CLI::Option* config_option =
      app.add_option(std::string(kConfigFlag), config_file, "Read settings from this TOML file")->type_name("FILE");
  app.add_flag("--check-config", flags.check_config, "Check the configuration, then end");

  // CLI11 keeps references to what it fills.
  std::vector<std::pair<const CLI::Option*, std::unique_ptr<std::vector<std::string>>>> given;
  for (const Setting& setting : AllSettings()) {
    auto values = std::make_unique<std::vector<std::string>>();
    const std::string flag(setting.flag);
    const std::string help(setting.help);
    CLI::Option* option = setting.kind == SettingKind::kSwitch ? app.add_flag(flag, *values, help)
                                                               : app.add_option(flag, *values, help)
                                                                     ->type_name(std::string(setting.placeholder))
                                                                     ->type_size(1)
                                                                     ->allow_extra_args(false);
    given.emplace_back(option, std::move(values));
  }

  try {
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));  // CLI11 takes them last first
  } catch (const CLI::CallForHelp&) {
    flags.text = HelpText(app);
    return flags;
  } catch (const CLI::ParseError& error) {
    return MakeError(Reason::kBadRequest, absl::StrCat(error.what(), " (see keyloadd --help)"));
  }

  if (show_version) flags.text = "keyloadd " KEYLOAD_VERSION "\n";
  if (!config_option->empty()) flags.config_file = config_file;
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i].first->empty()) continue;
    const Setting& setting = AllSettings()[i];
    if (setting.kind != SettingKind::kList && given[i].second->size() > 1) {
      return BadSetting(setting.flag, "given more than once");
    }
    flags.values.emplace(setting.flag, std::move(*given[i].second));
  }
  return flags;
}

// nullptr for a variable that is absent or empty.
const std::string* FindVariable(const std::map<std::string, std::string>& environment, std::string_view name) {
  const auto found = environment.find(std::string(name));
  return found == environment.end() || found->second.empty() ? nullptr : &found->second;
}

absl::Status ApplyFile(const std::string& path, ConfigFileReader read_file, Config& config) {
  const absl::StatusOr<std::string> content = read_file(path);
  if (!content.ok())
    return BadSetting(kConfigFlag, absl::StrFormat("cannot read %s: %s", path, content.status().message()));
  return ApplyConfigFile(path, *content, config);
}

absl::Status ApplyEnvironment(const std::map<std::string, std::string>& environment, Config& config) {
  for (const Setting& setting : AllSettings()) {
    const std::string* text = FindVariable(environment, setting.variable);
    if (text == nullptr) continue;
    std::vector<std::string> values{*text};
    if (setting.kind == SettingKind::kList) values = absl::StrSplit(*text, setting.separator);
    if (const absl::Status status = setting.apply(values, config); !status.ok()) {
      return BadSetting(setting.variable, std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

// What no setting can say of itself alone.
absl::Status CheckTogether(const Config& config) {
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return BadSetting(config.tls_cert.empty() ? "--tls-cert" : "--tls-key", "a certificate and its key go together");
  }
  if (!config.tls_client_ca.empty() && config.tls_cert.empty()) {
    return BadSetting("--tls-client-ca", "clients can only be verified over TLS: --tls-cert and --tls-key are missing");
  }
  if (!config.tls_cert.empty() || config.insecure_listen) return absl::OkStatus();
  for (const std::string& address : config.listen) {
    if (IsUnixAddress(address) || IsLoopbackAddress(address)) continue;
    return BadSetting("--listen",
                      absl::StrFormat("%s is reached from other machines: give it TLS (--tls-cert, --tls-key), or "
                                      "say --insecure-listen to serve it without",
                                      address));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args,
                                   const std::map<std::string, std::string>& environment, ConfigFileReader read_file) {
  KEYLOAD_ASSIGN_OR_RETURN(const Flags flags, ParseFlags(args));
  Config config;
  config.check_config = flags.check_config;
  if (flags.text.has_value()) {
    config.show_text = true;
    config.text = *flags.text;
    return config;
  }

  const std::string* file = FindVariable(environment, kConfigVariable);
  if (flags.config_file.has_value()) file = &*flags.config_file;
  if (file != nullptr) KEYLOAD_RETURN_IF_ERROR(ApplyFile(*file, read_file, config));
  KEYLOAD_RETURN_IF_ERROR(ApplyEnvironment(environment, config));
  for (const Setting& setting : AllSettings()) {
    const auto values = flags.values.find(setting.flag);
    if (values == flags.values.end()) continue;
    if (const absl::Status status = setting.apply(values->second, config); !status.ok()) {
      return BadSetting(setting.flag, std::string(status.message()));
    }
  }
  KEYLOAD_RETURN_IF_ERROR(CheckTogether(config));
  return config;
}

ConfigChange ChangeConfig(const Config& running, const Config& wanted) {
  ConfigChange change{.config = running, .changed = {}, .needs_start = {}};
  for (const Setting& setting : AllSettings()) {
    if (setting.same(running, wanted)) continue;
    if (setting.adopt == nullptr) {
      change.needs_start.emplace_back(setting.flag);
    } else {
      setting.adopt(wanted, change.config);
      change.changed.emplace_back(setting.flag);
    }
  }
  return change;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoToStatus(errno, "open", path);
  std::string content(kMaxFileBytes + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (file.bad()) return ErrnoToStatus(EIO, "read", path);
  content.resize(static_cast<size_t>(file.gcount()));
  if (content.size() > kMaxFileBytes) return MakeError(Reason::kBadRequest, "the file is larger than 1 MiB");
  return content;
}

}  // namespace keyload
