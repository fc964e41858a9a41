// A variable of this process's environment, put back at the end.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

namespace test {

class Variable {
  public:
    // Null: it is not there.
    Variable(std::string name, const char* value) : name_(std::move(name)) {
        if (const char* before = std::getenv(name_.c_str())) before_ = before;
        set(value);
    }
    ~Variable() { set(before_ ? before_->c_str() : nullptr); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;
    void set(const char* value) {
        if (value)
            setenv(name_.c_str(), value, 1);
        else
            unsetenv(name_.c_str());
    }

  private:
    const std::string name_;
    std::optional<std::string> before_;
};

}  // namespace test
