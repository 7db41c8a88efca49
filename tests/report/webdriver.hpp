// A headless Chromium behind chromedriver, spoken to by the WebDriver protocol.
#pragma once

#include <fcntl.h>
#include <httplib.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace kvcodec::report_test {

/// The file of this name on PATH; empty if there is none.
inline std::string program_on_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

/// One browser with one window. Throws std::runtime_error with the driver's words when a command fails.
class Browser {
 public:
  using Json = nlohmann::json;

  /// Keeps the profile and the driver's output in `folder`.
  explicit Browser(const std::filesystem::path& folder) : log_(folder / "driver.log") {
    start_driver();
    try {
      open_session(folder);
    } catch (...) {
      stop_driver();
      throw;
    }
  }
  ~Browser() {
    client_->Delete("/session/" + session_);
    stop_driver();
  }
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  void open(const std::filesystem::path& file) {
    post("/url", {{"url", "file://" + file.string()}});
  }
  /// The value that the body of a function returns.
  Json run(const std::string& script, const Json& arguments = Json::array()) {
    return post("/execute/sync", {{"script", script}, {"args", arguments}});
  }
  /// A command of the DevTools protocol.
  void devtools(const std::string& command, const Json& parameters) {
    post("/goog/cdp/execute", {{"cmd", command}, {"params", parameters}});
  }
  /// Messages of the console since the last call.
  Json console() { return post("/se/log", {{"type", "browser"}}); }
  /// Presses a key on the element that has the focus.
  void press(const std::string& key) {
    const Json keys = {{{"type", "keyDown"}, {"value", key}}, {{"type", "keyUp"}, {"value", key}}};
    post("/actions", {{"actions", {{{"type", "key"}, {"id", "keys"}, {"actions", keys}}}}});
  }
  /// Clicks in the middle of the first element that a selector finds.
  void click(const std::string& selector) {
    const Json found = post("/element", {{"using", "css selector"}, {"value", selector}});
    post("/element/" + found.begin().value().get<std::string>() + "/click", Json::object());
  }

 private:
  // The driver picks a free port and tells it in its output.
  void start_driver() {
    const std::string driver = program_on_path("chromedriver");
    std::string name = "chromedriver";
    std::string port = "--port=0";
    char* arguments[] = {name.data(), port.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    const int failed =
        ::posix_spawn(&driver_, driver.c_str(), &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("cannot start " + driver);
    const std::string before = "started successfully on port ";
    for (int tries = 0; tries < 600; ++tries) {
      std::ifstream in(log_);
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      const std::size_t at = text.find(before);
      if (at != std::string::npos && text.find('\n', at) != std::string::npos) {
        client_ = std::make_unique<httplib::Client>("127.0.0.1",
                                                    std::atoi(text.c_str() + at + before.size()));
        client_->set_read_timeout(60);
        client_->set_keep_alive(true);
        client_->set_tcp_nodelay(true);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    stop_driver();
    throw std::runtime_error("chromedriver named no port");
  }

  void stop_driver() {
    ::kill(driver_, SIGTERM);
    ::waitpid(driver_, nullptr, 0);
  }

  void open_session(const std::filesystem::path& folder) {
    Json arguments = {"--headless=new", "--disable-gpu", "--disable-dev-shm-usage",
                      "--window-size=1280,1000",
                      "--user-data-dir=" + (folder / "profile").string()};
    if (::geteuid() == 0) arguments.push_back("--no-sandbox");
    Json options = {{"args", arguments}};
    const std::string chromium = program_on_path("chromium");
    if (!chromium.empty()) options["binary"] = chromium;
    const Json always = {{"browserName", "chrome"},
                         {"goog:chromeOptions", options},
                         {"goog:loggingPrefs", {{"browser", "ALL"}}}};
    const Json reply = send("/session", {{"capabilities", {{"alwaysMatch", always}}}});
    session_ = reply["sessionId"].get<std::string>();
  }

  Json post(const std::string& command, const Json& body) {
    return send("/session/" + session_ + command, body);
  }

  Json send(const std::string& path, const Json& body) {
    const httplib::Result reply = client_->Post(path, body.dump(), "application/json");
    if (!reply) throw std::runtime_error(path + ": " + httplib::to_string(reply.error()));
    const Json value = Json::parse(reply->body)["value"];
    if (reply->status != 200) throw std::runtime_error(path + ": " + value.dump());
    return value;
  }

  std::filesystem::path log_;
  pid_t driver_ = 0;
  std::unique_ptr<httplib::Client> client_;
  std::string session_;
};

}  // namespace kvcodec::report_test
