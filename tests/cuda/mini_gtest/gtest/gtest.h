// The part of GoogleTest that the device tests use, for machines that have a GPU and no GoogleTest
// (scripts/gpu-check.sh). Tests mean the same with either; this one says less when they fail.
//
// There: TEST, TEST_F, TEST_P, INSTANTIATE_TEST_SUITE_P with Values and ValuesIn, EXPECT and ASSERT
// for EQ NE LT LE GT GE TRUE FALSE NEAR, ADD_FAILURE, GTEST_SKIP, SCOPED_TRACE, AssertionResult,
// --gtest_filter and --gtest_list_tests. Not there: death tests, matchers, typed suites, threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace testing {

/// Text that a failure or a skip carries on.
class Message {
 public:
  template <class T>
  Message& operator<<(const T& value) {
    stream_ << value;
    return *this;
  }
  std::string text() const { return stream_.str(); }

 private:
  std::ostringstream stream_;
};

/// A truth with a reason.
class AssertionResult {
 public:
  explicit AssertionResult(bool good) : good_(good) {}
  explicit operator bool() const { return good_; }
  const std::string& text() const { return text_; }
  template <class T>
  AssertionResult& operator<<(const T& value) {
    std::ostringstream stream;
    stream << value;
    text_ += stream.str();
    return *this;
  }

 private:
  bool good_;
  std::string text_;
};
inline AssertionResult AssertionSuccess() { return AssertionResult(true); }
inline AssertionResult AssertionFailure() { return AssertionResult(false); }

namespace internal {

/// What the test that runs has come to, and the traces around it.
struct State {
  bool failed = false;
  bool skipped = false;
  std::vector<std::string> traces;
};
inline State& state() {
  static State the_state;
  return the_state;
}

/// Takes the text of a failure or a skip, and tells it.
class Teller {
 public:
  Teller(const char* file, int line, bool failure, std::string what)
      : file_(file), line_(line), failure_(failure), what_(std::move(what)) {}
  void operator=(const Message& message) const {
    State& s = state();
    (failure_ ? s.failed : s.skipped) = true;
    std::printf("%s:%d: %s%s %s\n", file_, line_,
                failure_ ? "Failure: " : "Skipped: ", what_.c_str(), message.text().c_str());
    for (auto trace = s.traces.rbegin(); failure_ && trace != s.traces.rend(); ++trace) {
      std::printf("  trace: %s\n", trace->c_str());
    }
    std::fflush(stdout);
  }

 private:
  const char* file_;
  int line_;
  bool failure_;
  std::string what_;
};

class Trace {
 public:
  explicit Trace(std::string text) { state().traces.push_back(std::move(text)); }
  ~Trace() { state().traces.pop_back(); }
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
};
template <class T>
std::string text_of(const T& value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}

/// A value as far as streams know it.
template <class T>
std::string shown(const T& value) {
  if constexpr (std::is_convertible_v<T, std::string>) {
    return "\"" + std::string(value) + "\"";
  } else if constexpr (requires(std::ostringstream & s) { s << value; }) {
    return text_of(value);
  } else if constexpr (requires {
                         value.size();
                         value.begin();
                       }) {
    std::string text = std::to_string(value.size()) + " values {";
    std::size_t n = 0;
    for (const auto& x : value) {
      if (n++ == 8) return text + "...}";
      text += (n == 1 ? "" : ", ") + shown(static_cast<std::decay_t<decltype(x)>>(x));
    }
    return text + "}";
  } else if constexpr (requires(std::ostream * s) { PrintTo(value, s); }) {
    std::ostringstream stream;
    PrintTo(value, &stream);
    return stream.str();
  } else if constexpr (sizeof(T) == 1) {
    return std::to_string(static_cast<int>(value));
  } else {
    return "(not shown)";
  }
}

template <class A, class B, class F>
AssertionResult compare(const char* a_text, const char* b_text, const char* sign, const A& a,
                        const B& b, F&& holds) {
  if (holds(a, b)) return AssertionSuccess();
  return AssertionFailure() << a_text << " " << sign << " " << b_text << ", with " << shown(a)
                            << " and " << shown(b);
}
inline AssertionResult near(const char* a_text, const char* b_text, double a, double b,
                            double most) {
  if (std::abs(a - b) <= most) return AssertionSuccess();
  return AssertionFailure() << "|" << a_text << " - " << b_text << "| = " << std::abs(a - b)
                            << ", allowed " << most;
}
template <class T>
AssertionResult truth(const char* text, bool wanted, const T& value) {
  if (static_cast<bool>(value) == wanted) return AssertionSuccess();
  AssertionResult result = AssertionFailure();
  result << text << " is " << (wanted ? "false" : "true");
  if constexpr (std::is_same_v<T, AssertionResult>) result << " (" << value.text() << ")";
  return result;
}

}  // namespace internal

/// What tests derive from.
class Test {
 public:
  virtual ~Test() = default;
  virtual void TestBody() = 0;
  static bool HasFailure() { return internal::state().failed; }
  void run() {
    SetUp();
    if (!internal::state().failed && !internal::state().skipped) TestBody();
    TearDown();
  }

 protected:
  virtual void SetUp() {}
  virtual void TearDown() {}
};

template <class T>
struct TestParamInfo {
  T param;
  std::size_t index;
};

template <class T>
class TestWithParam : public Test {
 public:
  using ParamType = T;
  static const T& GetParam() { return *param(); }
  static const T*& param() {
    static const T* the_param = nullptr;
    return the_param;
  }
};

/// Values of any types that turn into the parameter's.
template <class... V>
auto Values(V... values) {
  return [values...]<class T>(std::type_identity<T>) {
    return std::vector<T>{static_cast<T>(values)...};
  };
}
template <class Container>
auto ValuesIn(const Container& values) {
  return [values]<class T>(std::type_identity<T>) {
    return std::vector<T>(values.begin(), values.end());
  };
}

namespace internal {

struct Entry {
  std::string name;
  std::function<void()> run;
};
/// Tests by name, those of parameterised suites among them once main has begun.
inline std::vector<Entry>& entries() {
  static std::vector<Entry> all;
  return all;
}
/// Makes entries of parameterised tests; needs all of both kinds to be registered.
inline std::vector<std::function<void()>>& expansions() {
  static std::vector<std::function<void()>> all;
  return all;
}
template <class T>
bool add_test(const char* suite, const char* name) {
  entries().push_back({std::string(suite) + "." + name, [] { std::make_unique<T>()->run(); }});
  return true;
}

/// Bodies of a suite of TEST_P.
template <class Fixture>
std::vector<std::pair<const char*, std::unique_ptr<Fixture> (*)()>>& bodies_of() {
  static std::vector<std::pair<const char*, std::unique_ptr<Fixture> (*)()>> all;
  return all;
}
template <class Fixture, class T>
bool add_body(const char* name) {
  bodies_of<Fixture>().emplace_back(
      name, []() -> std::unique_ptr<Fixture> { return std::make_unique<T>(); });
  return true;
}

template <class Fixture, class Generator, class Namer>
bool add_instances(const char* prefix, const char* suite, Generator generator, Namer namer) {
  expansions().push_back([=] {
    using Param = typename Fixture::ParamType;
    const auto params =
        std::make_shared<const std::vector<Param>>(generator(std::type_identity<Param>{}));
    for (const auto& [name, make] : bodies_of<Fixture>()) {
      for (std::size_t i = 0; i < params->size(); ++i) {
        entries().push_back({std::string(prefix) + "/" + suite + "." + name + "/" +
                                 namer(TestParamInfo<Param>{(*params)[i], i}),
                             [params, i, make = make] {
                               Fixture::param() = &(*params)[i];
                               const Trace trace("parameter " + shown((*params)[i]));
                               make()->run();
                             }});
      }
    }
  });
  return true;
}
template <class Fixture, class Generator>
bool add_instances(const char* prefix, const char* suite, Generator generator) {
  return add_instances<Fixture>(prefix, suite, generator,
                                [](const auto& info) { return std::to_string(info.index); });
}

}  // namespace internal

/// Runs what --gtest_filter chooses; 0 if nothing failed, 1 if something did, 2 for other arguments.
int run_all(int argc, char** argv);

}  // namespace testing

// The if is closed and has its else, so that these may stand unbraced before an else of others.
#define MINI_GTEST_CHECK(result, on_failure)                                               \
  if (const ::testing::AssertionResult mini_result = (result)) {                           \
  } else                                                                                   \
    on_failure ::testing::internal::Teller(__FILE__, __LINE__, true, mini_result.text()) = \
        ::testing::Message()
#define MINI_GTEST_EXPECT(result) \
  switch (0)                      \
  case 0:                         \
  default:                        \
    MINI_GTEST_CHECK(result, )
#define MINI_GTEST_ASSERT(result) \
  switch (0)                      \
  case 0:                         \
  default:                        \
    MINI_GTEST_CHECK(result, return )
#define MINI_GTEST_COMPARE(a, b, sign) \
  ::testing::internal::compare(        \
      #a, #b, #sign, (a), (b),         \
      [](const auto& mini_a, const auto& mini_b) { return mini_a sign mini_b; })

#define EXPECT_EQ(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, ==))
#define EXPECT_NE(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, !=))
#define EXPECT_LT(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, <))
#define EXPECT_LE(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, <=))
#define EXPECT_GT(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, >))
#define EXPECT_GE(a, b) MINI_GTEST_EXPECT(MINI_GTEST_COMPARE(a, b, >=))
#define ASSERT_EQ(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, ==))
#define ASSERT_NE(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, !=))
#define ASSERT_LT(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, <))
#define ASSERT_LE(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, <=))
#define ASSERT_GT(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, >))
#define ASSERT_GE(a, b) MINI_GTEST_ASSERT(MINI_GTEST_COMPARE(a, b, >=))
#define EXPECT_TRUE(x) MINI_GTEST_EXPECT(::testing::internal::truth(#x, true, (x)))
#define EXPECT_FALSE(x) MINI_GTEST_EXPECT(::testing::internal::truth(#x, false, (x)))
#define ASSERT_TRUE(x) MINI_GTEST_ASSERT(::testing::internal::truth(#x, true, (x)))
#define ASSERT_FALSE(x) MINI_GTEST_ASSERT(::testing::internal::truth(#x, false, (x)))
#define EXPECT_NEAR(a, b, most) \
  MINI_GTEST_EXPECT(::testing::internal::near(#a, #b, (a), (b), (most)))
#define ASSERT_NEAR(a, b, most) \
  MINI_GTEST_ASSERT(::testing::internal::near(#a, #b, (a), (b), (most)))
#define ADD_FAILURE() \
  ::testing::internal::Teller(__FILE__, __LINE__, true, "") = ::testing::Message()
#define GTEST_SKIP() \
  return ::testing::internal::Teller(__FILE__, __LINE__, false, "") = ::testing::Message()

#define MINI_GTEST_JOIN_(a, b) a##b
#define MINI_GTEST_JOIN(a, b) MINI_GTEST_JOIN_(a, b)
#define SCOPED_TRACE(text)                                      \
  const ::testing::internal::Trace MINI_GTEST_JOIN(mini_trace_, \
                                                   __LINE__)(::testing::internal::text_of(text))

#define MINI_GTEST_CLASS(suite, name, base, registration)            \
  class suite##_##name##_Test : public base {                        \
    void TestBody() override;                                        \
  };                                                                 \
  [[maybe_unused]] const bool suite##_##name##_added = registration; \
  void suite##_##name##_Test::TestBody()
#define TEST(suite, name)                        \
  MINI_GTEST_CLASS(suite, name, ::testing::Test, \
                   ::testing::internal::add_test<suite##_##name##_Test>(#suite, #name))
#define TEST_F(suite, name)            \
  MINI_GTEST_CLASS(suite, name, suite, \
                   ::testing::internal::add_test<suite##_##name##_Test>(#suite, #name))
#define TEST_P(suite, name)            \
  MINI_GTEST_CLASS(suite, name, suite, \
                   (::testing::internal::add_body<suite, suite##_##name##_Test>(#name)))
#define INSTANTIATE_TEST_SUITE_P(prefix, suite, ...)     \
  [[maybe_unused]] const bool prefix##_##suite##_added = \
      ::testing::internal::add_instances<suite>(#prefix, #suite, __VA_ARGS__)
