#pragma once

#include <string>

#include "server/load/transfer.h"
#include "server/service/prepare.h"
#include "server/store/resident_model.h"

namespace keyload {

// Joins what was planned and what the transfer made into the content of a model, and finishes the report: loaded, lazy
// and conflicting keys, warnings about conflicts, and the outcome COMPLETE or INCOMPLETE.
ResidentModel::Content MakeModelContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                        TransferResult transferred, const ReaderFactory& make_reader,
                                        LoadReport& report);

}  // namespace keyload
