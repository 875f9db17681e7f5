#include "client/cli/model_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

v1::Model PartialModel() {
  v1::Model model;
  model.set_name("m");
  model.set_state(v1::MODEL_STATE_PARTIAL);
  model.mutable_keys()->set_expected(104);
  model.mutable_keys()->set_loaded(4);
  model.mutable_keys()->set_lazy(100);
  model.set_page_cache_bytes(3 << 20);
  v1::DeviceUse& use = *model.add_devices();
  use.set_device("cuda:0");
  use.set_tensors(4);
  use.set_tensor_bytes(1 << 20);
  return model;
}

TEST(ModelText, ShowsWhatIsResidentLazyAndCached) {
  const std::string text = ModelText(PartialModel());
  EXPECT_THAT(text, HasSubstr("m: PARTIAL"));
  EXPECT_THAT(text, HasSubstr("4/104 loaded, 100 lazy, 0 missing"));
  EXPECT_THAT(text, HasSubstr("3.0 MiB of its files in the page cache"));
  EXPECT_THAT(text, ContainsRegex("cuda:0 +4  1.0 MiB"));
}

TEST(ModelText, SaysNothingOfAPageCacheThatWasNotMeasured) {
  v1::Model model = PartialModel();
  model.clear_page_cache_bytes();
  EXPECT_THAT(ModelText(model), Not(HasSubstr("page cache")));
  EXPECT_THAT(ModelsText({model}), ContainsRegex("1.0 MiB +-  cuda:0"));
}

TEST(ModelsText, HasOneRowPerModelWithItsResidency) {
  EXPECT_THAT(ModelsText({PartialModel()}), ContainsRegex("m +PARTIAL +4/104 +100 +0  1.0 MiB  3.0 MiB  cuda:0"));
  EXPECT_EQ(ModelsText({}), "no models\n");
}

}  // namespace
}  // namespace keyload::cli
