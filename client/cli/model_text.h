#pragma once

#include <string>
#include <vector>

#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// Tables for people. Each ends with a newline.
std::string ModelsText(const std::vector<v1::Model>& models);
std::string ModelText(const v1::Model& model);
std::string KeysText(const std::vector<v1::KeyInfo>& keys);
std::string ServerInfoText(const v1::GetServerInfoResponse& info);
std::string LoadsText(const std::vector<v1::LoadStatus>& loads);
std::string LeasesText(const v1::ListLeasesResponse& leases);

}  // namespace keyload::cli
