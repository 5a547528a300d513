#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>

#include "feature_maps.hpp"

/// @file
/// What is shown while the networks learn.

namespace digits {

/// @brief A bar that grows while a training runs, and one line when it is over.
class Progress {
 public:
  /// @brief What is wanted of it.
  enum class Style { silent, lines, bar };

  /// @param style  silent on all ranks but one; bar only on a terminal.
  explicit Progress(Style style) : style_(style) {}

  /// @brief Before a training. @param title  what is trained. @param steps  how many there will be.
  void begin(std::string title, Index steps) {
    title_ = std::move(title);
    steps_ = steps;
    done_ = 0;
    draw();
  }

  /// @brief After a step.
  void step() {
    const Index before = done_ * bar_width / steps_;
    ++done_;
    if (done_ * bar_width / steps_ != before) draw();
  }

  /// @brief After a training. @param result  a few words.
  void end(const std::string& result) const {
    if (style_ == Style::silent) return;
    std::printf("%s%-30s  %s\n", style_ == Style::bar ? "\r\033[K" : "", title_.c_str(), result.c_str());
    std::fflush(stdout);
  }

 private:
  static constexpr Index bar_width = 32;

  void draw() const {
    if (style_ != Style::bar) return;
    const auto full = static_cast<std::size_t>(done_ * bar_width / steps_);
    const std::string bar = std::string(full, '#') + std::string(std::size_t{bar_width} - full, '.');
    std::printf("\r\033[K%-30s  [%s]", title_.c_str(), bar.c_str());
    std::fflush(stdout);
  }

  Style style_;
  std::string title_;
  Index steps_ = 1;
  Index done_ = 0;
};

}  // namespace digits
