#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// @file
/// Curves of the loss as a picture that any browser shows.

namespace digits {

/// @brief One line of a diagram.
struct Curve {
  std::string name;
  std::string style;           ///< attributes of an SVG path, such as stroke="red"
  std::vector<double> values;  ///< one per epoch, positive
};

/// @brief One diagram.
struct Diagram {
  std::string title;
  std::vector<Curve> curves;
};

/// @brief Draws diagrams side by side, with the same logarithmic scale.
class CurvesPicture {
 public:
  /// @param diagrams  at least one, with at least one curve of at least one value each.
  explicit CurvesPicture(std::span<const Diagram> diagrams) : diagrams_(diagrams) {
    double smallest = diagrams[0].curves[0].values[0];
    double largest = smallest;
    for (const Diagram& diagram : diagrams) {
      for (const Curve& curve : diagram.curves) {
        const auto [low, high] = std::minmax_element(curve.values.begin(), curve.values.end());
        smallest = std::min(smallest, *low);
        largest = std::max(largest, *high);
        epochs_ = std::max(epochs_, curve.values.size());
      }
    }
    lowest_decade_ = static_cast<int>(std::floor(std::log10(smallest)));
    highest_decade_ = std::max(lowest_decade_ + 1, static_cast<int>(std::ceil(std::log10(largest))));
  }

  /// @brief Writes the picture. @throws std::runtime_error if that fails.
  void write(const std::string& path) const {
    std::ofstream svg(path);
    const double total = panel_width * static_cast<double>(diagrams_.size());
    svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << total << "\" height=\"" << panel_height
        << "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
        << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
    for (std::size_t i = 0; i < diagrams_.size(); ++i) {
      svg << "<g transform=\"translate(" << panel_width * static_cast<double>(i) << " 0)\">\n";
      draw_axes(svg);
      draw_curves(svg, diagrams_[i]);
      svg << "</g>\n";
    }
    svg << "</svg>\n";
    if (!svg.flush()) throw std::runtime_error("cannot write the picture " + path);
  }

 private:
  static constexpr double panel_width = 380.0;
  static constexpr double panel_height = 320.0;
  static constexpr double left = 56.0;
  static constexpr double right = panel_width - 16.0;
  static constexpr double top = 36.0;
  static constexpr double bottom = panel_height - 44.0;

  [[nodiscard]] double x_of(std::size_t epoch) const {
    return left + (right - left) * static_cast<double>(epoch) / static_cast<double>(epochs_);
  }

  [[nodiscard]] double y_of(double value) const {
    const double share = (std::log10(value) - lowest_decade_) / (highest_decade_ - lowest_decade_);
    return bottom - (bottom - top) * share;
  }

  void draw_axes(std::ostream& svg) const {
    for (int decade = lowest_decade_; decade <= highest_decade_; ++decade) {
      const double value = std::pow(10.0, decade);
      svg << "<path d=\"M" << left << ' ' << y_of(value) << " H" << right << "\" stroke=\"#ddd\"/>\n"
          << "<text x=\"" << left - 6.0 << "\" y=\"" << y_of(value) + 4.0 << "\" text-anchor=\"end\">" << value
          << "</text>\n";
    }
    const std::size_t interval = (epochs_ + 9) / 10;
    for (std::size_t epoch = interval; epoch <= epochs_; epoch += interval) {
      svg << "<text x=\"" << x_of(epoch) << "\" y=\"" << bottom + 18.0 << "\" text-anchor=\"middle\">" << epoch
          << "</text>\n";
    }
    svg << "<text x=\"" << (left + right) / 2.0 << "\" y=\"" << bottom + 36.0
        << "\" text-anchor=\"middle\">epoch</text>\n"
        << "<text transform=\"translate(14 " << (top + bottom) / 2.0
        << ") rotate(-90)\" text-anchor=\"middle\">training loss</text>\n";
  }

  void draw_curves(std::ostream& svg, const Diagram& diagram) const {
    svg << "<text x=\"" << left << "\" y=\"22\" font-size=\"14\" font-weight=\"bold\">" << diagram.title << "</text>\n";
    double legend = top + 12.0;
    for (const Curve& curve : diagram.curves) {
      svg << "<path fill=\"none\" stroke-linecap=\"round\" stroke-linejoin=\"round\" " << curve.style << " d=\"";
      for (std::size_t i = 0; i < curve.values.size(); ++i) {
        svg << (i == 0 ? "M" : " L") << x_of(i + 1) << ' ' << y_of(curve.values[i]) << (i == 0 ? " h0" : "");
      }
      svg << "\"/>\n<path " << curve.style << " d=\"M" << right - 168.0 << ' ' << legend << " h28\"/>\n"
          << "<text x=\"" << right - 132.0 << "\" y=\"" << legend + 4.0 << "\">" << curve.name << "</text>\n";
      legend += 18.0;
    }
  }

  std::span<const Diagram> diagrams_;
  std::size_t epochs_ = 1;
  int lowest_decade_ = 0;
  int highest_decade_ = 1;
};

}  // namespace digits
