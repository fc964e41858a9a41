// What a test and a program of another compiler both know.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace other {

class Shared {
  public:
    void add(int n) { sum_ += n; }
    void add(double n) { sum_ += int(n); }
    int sum() const noexcept { return sum_; }
    std::map<std::string, std::vector<int>> pair(std::string key) const { return {{key, {sum_}}}; }
    void fail() { throw std::domain_error("so"); }

  private:
    int sum_ = 0;
};

}  // namespace other
